"""The connections that open pages keep: a visitor is gone when the last of a session has ended.

Gradio takes the end of any heartbeat for the end of the visit, and stops the jobs. A page that
has lost its connection opens another one, though, often before the network tells that the
first is dead. So Gradio sees one heartbeat per session, as long as there is any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

RATE_S = 15.0
ALIVE = b"data: ALIVE\n\n"


@dataclass
class Visit:
    """One session's open connections. ``over``: none is left, or the server ends."""

    links: int = 1
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Heartbeats:
    """Lets the first connection of a session through to ``app``, the others stay here."""

    def __init__(self, app: App, rate_s: float = RATE_S) -> None:
        self.app = app
        self.rate_s = rate_s
        self.visits: dict[str, Visit] = {}

    async def answer(self, session: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Until this connection ends; the first one until the visit does."""
        visit = self.visits.get(session)
        if visit is not None:
            visit.links += 1
            try:
                await self.beat(visit, receive, send)
            finally:
                self.leave(session, visit)
            return
        visit = self.visits[session] = Visit()
        left = False

        async def held() -> Message:
            """The end of this connection is told when there is no other."""
            nonlocal left
            message = await receive()
            if message["type"] == "http.disconnect":
                if not left:
                    left = True
                    self.leave(session, visit)
                await visit.over.wait()
            return message

        try:
            await self.app(scope, held, send)
        finally:  # the others, if any, are to connect anew
            visit.over.set()
            if self.visits.get(session) is visit:
                del self.visits[session]

    def leave(self, session: str, visit: Visit) -> None:
        visit.links -= 1
        if not visit.links:
            visit.over.set()
            if self.visits.get(session) is visit:
                del self.visits[session]

    async def beat(self, visit: Visit, receive: Receive, send: Send) -> None:
        """As Gradio's, until the connection or the visit ends."""
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        ends = [asyncio.ensure_future(ended(receive)), asyncio.ensure_future(visit.over.wait())]
        try:
            done: set[Any] = set()
            while not done:
                await send({"type": "http.response.body", "body": ALIVE, "more_body": True})
                done, _ = await asyncio.wait(
                    ends, timeout=self.rate_s, return_when=asyncio.FIRST_COMPLETED
                )
        finally:
            for end in ends:
                end.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def ended(receive: Receive) -> None:
    """When the other side has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass
