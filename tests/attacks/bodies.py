"""Bodies of requests, generated from the OpenAPI document: most values have the type of their schema, some have not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

DEEPEST = 4
VALID = 0.85
"""The share of values of the right type."""


class Bodies:
    def __init__(self, document: Mapping[str, Any], random: Random, *, texts: Sequence[str], others: Sequence[Any]):
        """`texts` are what strings are chosen from, and `others` values of any type."""
        self._schemas = document["components"]["schemas"]
        self._random = random
        self._texts, self._others = texts, others

    def of(self, operation: Mapping[str, Any]) -> Any:
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        return self._value(content["schema"], DEEPEST) if content else {}

    def _value(self, schema: Mapping[str, Any], depth: int) -> Any:
        random = self._random
        if "$ref" in schema:
            return self._value(self._schemas[schema["$ref"].rpartition("/")[2]], depth)
        if depth == 0 or (depth < DEEPEST and random.random() > VALID):
            return random.choice(self._others)
        if choices := schema.get("anyOf") or schema.get("oneOf"):
            return self._value(random.choice(choices), depth)
        if values := schema.get("enum") or ([schema["const"]] if "const" in schema else None):
            return random.choice(values)
        match schema.get("type"):
            case "object":
                return self._object(schema, depth)
            case "array":
                return [self._value(schema.get("items", {}), depth - 1) for _ in range(random.randrange(1, 3))]
            case "string":
                return random.choice(self._texts)
            case "integer":
                return random.choice([0, 1, 8, 500])
            case "boolean":
                return random.random() < 0.5
        return None if schema.get("type") == "null" else random.choice(self._others)

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties", {})
        required = schema.get("required", ())
        chosen = [name for name in properties if name in required or self._random.random() < 0.2]
        return {name: self._value(properties[name], depth - 1) for name in chosen}
