"""Commands are signed by the API nodes with a key the hosts know and Redis does not.

Whoever can write to Redis can lose or repeat a command, but cannot make a host run one of their own. The signature
covers the operation's id, so that a signed command cannot be put under another operation.
"""

from __future__ import annotations

import hmac

from pydantic import SecretStr

from aima_core.domain.ids import OperationId


def sign(command: str, key: SecretStr, operation: OperationId) -> str:
    """The signature of a command's JSON, as hexadecimal text."""
    return hmac.digest(key.get_secret_value().encode(), f"{operation}\n{command}".encode(), "sha256").hex()


def verified(command: str, key: SecretStr, operation: OperationId, signature: str) -> bool:
    return hmac.compare_digest(sign(command, key, operation), signature)
