"""Tolerant reads: a record that AIMA did not write is skipped and logged once, so that it disturbs no other record."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import structlog
from pydantic import ValidationError

from aima_core.domain.hosts import HostFacts
from aima_core.domain.ids import HostName
from aima_core.domain.services import Desired, Instance
from aima_core.errors import AimaError
from aima_core.redis.connection import is_bad_data, translated
from aima_core.redis.interface import TextPipeline

UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, OSError, AimaError)
"""What parsing raises for values that AIMA does not write; an id that is none is an AimaError."""
LENGTH = 200
"""Characters of a name or a reason in logs and reports."""
_T = TypeVar("_T")

_log = structlog.get_logger()


def readable(kind: str, name: str, parse: Callable[..., _T], *args: Any) -> _T | None:
    """The record as parsed from these values; None, with a log line, if it is unreadable."""
    try:
        return parse(*args)
    except UNREADABLE as wrong:
        _log_once(kind, name, reason_of(wrong))
        return None


def replies(pipe: TextPipeline) -> list[Any]:
    """The replies to the commands of a pipeline; None for a key of another type. Raises BrokerUnavailable."""
    return [_reply(each) for each in pipe.execute(raise_on_error=False)]


def reason_of(wrong: Exception) -> str:
    """One line."""
    if isinstance(wrong, ValidationError):
        [first, *_] = wrong.errors(include_url=False, include_input=False)
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")[:LENGTH]
    return (str(wrong).splitlines() or [""])[0][:LENGTH] or type(wrong).__name__


@lru_cache(maxsize=1024)
def _log_once(kind: str, name: str, reason: str) -> None:
    _log.warning("unreadable record skipped", kind=kind, name=name[:LENGTH], reason=reason)


def _reply(reply: Any) -> Any:
    if not isinstance(reply, Exception):
        return reply
    if is_bad_data(reply):
        return None
    raise translated(reply)


def instance_from(fields: Mapping[str, Any]) -> Instance:
    return Instance.model_validate_json(
        # Fence and desired state are fields of their own, which the scripts compare.
        fields["record"][:-1] + f',"fence":{fields["fence"]},"desired":"{Desired(fields["desired"])}"}}'
    )


def check_facts(name: str, text: str) -> HostFacts:
    """Raises ValueError if the facts are another host's."""
    facts = HostFacts.model_validate_json(text)
    if facts.name != HostName(name):
        raise ValueError(f"its facts are those of {facts.name}")
    return facts
