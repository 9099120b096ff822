"""Routes of aliases."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from aima_api.access.aliases import Alias
from aima_api.dependencies import Access, Api, Cursor, WholeLimit, page_of
from aima_api.specs.fields import AliasTargets
from aima_core.domain.fields import AliasName

router = APIRouter(prefix="/v1/aliases", tags=["aliases"])

Name = Annotated[AliasName, Path(description="The alias, such as `gpt-4o` or `Qwen/Qwen3-32B`.")]


class Aliases(BaseModel):
    items: list[Alias]
    next: str | None
    unverified: int
    """Records that were skipped: forged, unreadable, or signed by a key that is no longer trusted."""


@router.get("")
def list_aliases(api: Api, limit: WholeLimit = None, cursor: Cursor = None) -> Aliases:
    """List the aliases by name."""
    stored = api.aliases.all()
    items, after = page_of(stored.items, limit=limit, after=cursor)
    return Aliases(items=items, next=after, unverified=stored.unverified)


@router.get("/{name:path}")
def show(api: Api, name: Name) -> Alias:
    """Show an alias."""
    return api.aliases.get(name)


@router.put("/{name:path}")
def set_alias(api: Api, access: Access, name: Name, body: AliasTargets) -> Alias:
    """Set where the requests for an alias go, in place of what was set before. Gateways follow within seconds."""
    return api.alias_submission.set(name, body, by=access.caller.name)


@router.delete("/{name:path}", status_code=204)
def remove(api: Api, name: Name) -> None:
    """Remove an alias."""
    api.aliases.remove(name)
