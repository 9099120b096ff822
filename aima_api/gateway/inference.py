"""What a request asks of an engine: its path, its content type, and how its stream ends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Inference(StrEnum):
    """As `serves` of an engine lists them."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    SPEECH = "speech"
    TRANSCRIPTIONS = "transcriptions"
    TRANSLATIONS = "translations"


PATHS: Final[Mapping[str, Inference]] = {
    "/v1/chat/completions": Inference.CHAT,
    "/v1/completions": Inference.COMPLETIONS,
    "/v1/responses": Inference.RESPONSES,
    "/v1/messages": Inference.MESSAGES,
    "/v1/embeddings": Inference.EMBEDDINGS,
    "/v1/rerank": Inference.RERANK,
    "/v1/audio/speech": Inference.SPEECH,
    "/v1/audio/transcriptions": Inference.TRANSCRIPTIONS,
    "/v1/audio/translations": Inference.TRANSLATIONS,
}
PATH_OF: Final[Mapping[Inference, str]] = {operation: path for path, operation in PATHS.items()}
FORMS: Final = frozenset({Inference.TRANSCRIPTIONS, Inference.TRANSLATIONS})
"""Their body is multipart/form-data; that of the others is JSON."""
STREAM_OPTIONS: Final = frozenset({Inference.CHAT, Inference.COMPLETIONS})
"""Their streams report usage only if `stream_options.include_usage` asks for it."""
_DONE = rb"(?:\A|\n)data: ?\[DONE\]"
_ERROR = rb"(?:\A|\n)event: ?error"
ENDS: Final[Mapping[Inference, re.Pattern[bytes]]] = {
    Inference.CHAT: re.compile(_DONE),
    Inference.COMPLETIONS: re.compile(_DONE),
    Inference.RESPONSES: re.compile(
        rb'"type"\s*:\s*"response\.(?:completed|incomplete|failed)"|' + _ERROR + rb"|" + _DONE
    ),
    Inference.MESSAGES: re.compile(rb'"type"\s*:\s*"message_stop"|' + _ERROR),
}
"""The last event of a complete stream. A stream of another operation ends where the engine ends it."""
