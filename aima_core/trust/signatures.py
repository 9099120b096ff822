"""HMAC signatures of commands: API nodes sign with a key that hosts have and Redis does not.

A writer in Redis can delete or replay a command, and cannot forge one. The signature covers the operation's id, so
that a signed command cannot be replayed under another operation; without a valid signature it is not executed.
"""

import hmac

from pydantic import SecretStr

from aima_core.domain.ids import OperationId


def sign(command: str, key: SecretStr, operation: OperationId) -> str:
    """The signature of a command's JSON, as hexadecimal text."""
    return hmac.digest(key.get_secret_value().encode(), f"{operation}\n{command}".encode(), "sha256").hex()


def verified(command: str, key: SecretStr, operation: OperationId, signature: str) -> bool:
    return hmac.compare_digest(sign(command, key, operation), signature)
