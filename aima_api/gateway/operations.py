"""What a request asks of an engine: its path, its content type, and how its stream ends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Operation(StrEnum):
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


PATHS: Final[Mapping[str, Operation]] = {
    "/v1/chat/completions": Operation.CHAT,
    "/v1/completions": Operation.COMPLETIONS,
    "/v1/responses": Operation.RESPONSES,
    "/v1/messages": Operation.MESSAGES,
    "/v1/embeddings": Operation.EMBEDDINGS,
    "/v1/rerank": Operation.RERANK,
    "/v1/audio/speech": Operation.SPEECH,
    "/v1/audio/transcriptions": Operation.TRANSCRIPTIONS,
    "/v1/audio/translations": Operation.TRANSLATIONS,
}
PATH_OF: Final[Mapping[Operation, str]] = {operation: path for path, operation in PATHS.items()}
FORMS: Final = frozenset({Operation.TRANSCRIPTIONS, Operation.TRANSLATIONS})
"""Their body is multipart/form-data; that of the others is JSON."""
STREAM_OPTIONS: Final = frozenset({Operation.CHAT, Operation.COMPLETIONS})
"""Their streams report usage only if `stream_options.include_usage` asks for it."""
_DONE = rb"(?:\A|\n)data: ?\[DONE\]"
_ERROR = rb"(?:\A|\n)event: ?error"
ENDS: Final[Mapping[Operation, re.Pattern[bytes]]] = {
    Operation.CHAT: re.compile(_DONE),
    Operation.COMPLETIONS: re.compile(_DONE),
    Operation.RESPONSES: re.compile(
        rb'"type"\s*:\s*"response\.(?:completed|incomplete|failed)"|' + _ERROR + rb"|" + _DONE
    ),
    Operation.MESSAGES: re.compile(rb'"type"\s*:\s*"message_stop"|' + _ERROR),
}
"""The last event of a complete stream. A stream of another operation ends where the engine ends it."""
