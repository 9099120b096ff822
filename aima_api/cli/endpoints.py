"""Where people reach a service: through gateways, unless its instances are reached at their own ports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def inference_url(service: Mapping[str, Any]) -> str | None:
    """None if no gateway serves it."""
    through_gateways = any(not _is_direct(service, each) for each in service.get("instances", ()))
    return service.get("inference_url") if through_gateways else None


def direct_endpoints(service: Mapping[str, Any]) -> list[str]:
    """Of the instances that are reached at their own ports."""
    return [each["endpoint"] for each in service["instances"] if each.get("endpoint") and _is_direct(service, each)]


def _is_direct(service: Mapping[str, Any], instance: Mapping[str, Any]) -> bool:
    return bool(service.get("expose")) or not instance.get("serves")
