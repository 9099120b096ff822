"""`python bare.py PORT ENGINE`: the least proxy that one would write with the same libraries, as a reference.

It has no keys, metrics, limits, retries or log. What the gateway costs is compared with it, since the time of both
drifts with the machine alike.
"""

from __future__ import annotations

import sys
from typing import Any

import aiohttp
import uvicorn


class BareProxy:
    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=False)
        message = await receive()
        body = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        headers = {"content-type": "application/json"}
        async with self._session.post(self._engine + scope["path"], data=body, headers=headers) as answer:
            kept = [
                (name.encode(), answer.headers[name].encode())
                for name in ("content-type", "content-length")
                if name in answer.headers
            ]
            await send({"type": "http.response.start", "status": answer.status, "headers": kept})
            async for part in answer.content.iter_any():
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    uvicorn.run(BareProxy(sys.argv[2]), port=int(sys.argv[1]), log_level="warning", access_log=False, lifespan="off")
