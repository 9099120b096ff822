"""Routes of API keys and of the audit log; all require the scope `admin`."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from aima_api.access.audit import AuditEntry
from aima_api.access.keys import ApiKey, KeyName, KeyOptions
from aima_api.dependencies import Access, Api, Cursor, Limit, WholeLimit
from aima_api.routes.logs import Since, moment_of
from aima_core.domain.units import Duration

router = APIRouter(prefix="/v1", tags=["access"])

MAX_LIFETIME = timedelta(days=3650)


class CreateKey(KeyOptions):
    expires: Annotated[Duration, Field(gt=timedelta(), le=MAX_LIFETIME)] | None = None
    """From now on, such as `90d`; never without it."""


class CreatedKey(ApiKey):
    key: str
    """Shown once: AIMA stores its digest only."""


class Keys(BaseModel):
    items: list[ApiKey]
    next: str | None
    unverified: int
    """Records that were skipped: forged, unreadable, or signed by a key that is no longer trusted."""


class Audit(BaseModel):
    items: list[AuditEntry]
    """In the order of time."""
    next: str | None
    last: str
    """The cursor from which later entries continue."""


@router.post("/keys", status_code=201)
def create(api: Api, access: Access, response: Response, body: CreateKey) -> CreatedKey:
    """Create an API key. The answer is the only place where it is shown."""
    access.target = body.name
    options = KeyOptions(**body.model_dump(exclude={"expires"}))
    key, record = api.keys.create(options, expires=body.expires, by=access.caller.name, signing_key=api.signing_key)
    response.headers["Cache-Control"] = "no-store"
    return CreatedKey(**record.model_dump(), key=key)


@router.get("/keys")
def list_keys(api: Api, limit: WholeLimit = None, cursor: Cursor = None) -> Keys:
    """List the API keys with the time of their last use; those of the settings are not listed."""
    stored = api.keys.all()
    left = [each for each in stored.items if each.name > (cursor or "")]
    page = left[:limit]
    return Keys(items=page, next=page[-1].name if len(page) < len(left) else None, unverified=stored.unverified)


@router.delete("/keys/{name}", status_code=204)
def revoke(api: Api, name: Annotated[KeyName, Path(description="The key's name.")]) -> None:
    """Revoke an API key: every node refuses it within a second."""
    api.keys.revoke(name)


@router.get("/audit")
def audit(
    api: Api,
    since: Since = None,
    key: Annotated[str | None, Query(max_length=100, description="Only requests with the key of this name.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Audit:
    """The last entries of the audit log; with `since` or `cursor` the first ones after it. Poll `last` to follow."""
    page = api.audit.page(limit=limit, after=cursor, since=moment_of(since) if since else None, key=key)
    return Audit(items=page.entries, next=page.last if page.more else None, last=page.last)
