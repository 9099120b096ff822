"""Types of the fields that engines, specs, requests and documents have in common.

A malformed value is refused with its fix. Documents are read without the catalog's schema, which takes longer to load.
"""

import math
import re
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from aima_core.domain.ids import EngineName
from aima_core.errors import BadId

Scalar = bool | int | float | str
PullPolicy = Literal["missing", "always", "never"]
"""When a host asks a registry for an image: if it lacks it, at every start, or never."""
_MODEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_ARGUMENT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,79}")
_FORBIDDEN_VARIABLES = re.compile(
    r"LD_.*|PYTHON.*|PERL.*|RUBY.*|NODE_.*|_?(JAVA|JDK)_.*|PATH|HOME|IFS|ENV|BASH.*|SHELLOPTS|PS4|PROMPT_COMMAND|"
    r"GCONV_PATH|GETCONF_DIR|GLIBC_TUNABLES|HOSTALIASES|LOCALDOMAIN|LOCPATH|MALLOC_.*|NIS_PATH|NLSPATH|RESOLV_HOST_CONF|"
    r"RES_OPTIONS|TMPDIR|TZDIR|OPENSSL_.*|DOCKER_.*|AIMA_.*|CREDENTIALS_DIRECTORY|NVIDIA_.*|CUDA_VISIBLE_DEVICES"
)
"""They make an interpreter, a shell or the C library load code, or choose devices that are not granted."""


def collect_bad_id(value: object, parse: ValidatorFunctionWrapHandler) -> object:
    # A BadId would stop the validation at the first mistake; a ValueError is collected with the others.
    try:
        return parse(value)
    except BadId as wrong:
        mistake = wrong.failure.message.rstrip(".")
        raise ValueError(f"{mistake}; write one such as `{wrong.facts['example']}`") from wrong


def _model_name(text: str) -> str:
    if not _MODEL_NAME.fullmatch(text):
        raise ValueError(f"{text!r} is not a model name; write letters, digits, dots and dashes, such as `Qwen3-32B`")
    return text


def _argument_name(text: str) -> str:
    if not _ARGUMENT_NAME.fullmatch(text):
        raise ValueError(f"{text!r} cannot name an argument; write it without its dashes, such as `max-model-len`")
    return text


def variable_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise ValueError(f"{text!r} cannot name a variable; write letters, digits and underscores")
    if _FORBIDDEN_VARIABLES.fullmatch(text):
        raise ValueError(f"{text!r} may not be set; name a variable of the engine's own")
    return text


def _word(text: str) -> str:
    if "\0" in text:
        raise ValueError("it holds a zero byte, which no command can be given; take it out")
    return text


def _scalar(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no usable number; write a finite one")
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _word(value)
    raise ValueError("it is neither text, a number, true nor false; write one of these")


ModelName = Annotated[str, AfterValidator(_model_name), Field(examples=["Qwen3-32B"])]
AliasName = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9](?:[A-Za-z0-9._:/@+-]{0,126}[A-Za-z0-9])?$"),
    Field(examples=["gpt-4o"]),
]
"""As applications write it in `model`, such as `gpt-4o` or `Qwen/Qwen3-32B`."""
ArgumentName = Annotated[str, AfterValidator(_argument_name)]
Arguments = dict[ArgumentName, Annotated[Scalar, BeforeValidator(_scalar)]]
Variable = Annotated[str, AfterValidator(variable_name)]
SecretName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$"), Field(examples=["HF_TOKEN"])
]
SecretEntry = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"), Field(examples=["huggingface"])
]
Word = Annotated[str, StringConstraints(max_length=10_000), AfterValidator(_word)]
NamedEngine = Annotated[EngineName, WrapValidator(collect_bad_id), Field(examples=["vllm-0.14.0-cu131-gb10"])]
