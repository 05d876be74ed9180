"""What stands between the network and the page: open routes, small requests, plain errors.

Gradio serves more than this page needs (uploads, a proxy, component functions, saved
views, recordings) and answers some errors with what the visitor sent. ``Gate`` lets through
what the page uses and nothing else, before Gradio sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
from typing import Any
from urllib.parse import parse_qs

from .device import ADDRESS, Device
from .heartbeats import App, Heartbeats, Message, Receive, Scope, Send
from .limits import Limits
from .sheets import ADDRESS as SHEETS
from .sheets import ROUTES

API = "/gradio_api"
HEARTBEAT = f"{API}/heartbeat/"
INFO = f"{API}/info"
BODY_S = 20.0
"""Seconds for a request's body to arrive."""
DRAINED = 16
"""So many times the limit are read and dropped, so that the sender can read the answer."""
SESSION = re.compile(r"[A-Za-z0-9_-]{1,64}")
SCHEME = re.compile(r"\W*[A-Za-z][A-Za-z0-9+.-]+:")
GET_EXACT = frozenset(
    {
        "/", "/config", "/config/", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json",
        ADDRESS,
        *(f"{API}/{name}" for name in (
            "info", "info/", "theme.css", "app_id", "app_id/", "startup-events", "openapi.json",
            "queue/data", "queue/status", "login_check", "user",
        )),
    }
)  # fmt: skip
GET_BELOW = (
    "/assets/", "/static/", "/svelte/", f"{ADDRESS}/", SHEETS, HEARTBEAT, f"{API}/call/",
    f"{API}/file=",
)  # fmt: skip
POST_EXACT = frozenset({f"{API}/{name}" for name in ("queue/join", "cancel", "reset", "reset/")})
POST_BELOW = (f"{API}/call/", f"{API}/run/", f"{API}/api/")
CALL_V2 = f"{API}/call/v2/"
LONGEST_NAME = 255
"""Bytes of a file's name; the system refuses to look for longer ones."""
SHORT = {
    400: "the request was not understood",
    403: "not allowed",
    404: "not found",
    405: "not allowed",
    408: "the request took too long to arrive",
    413: "the request is too large: expected at most {limit} KiB",
    422: "the request was not understood: expected what this page sends",
    503: "busy: too many questions wait already; try again in some seconds",
    500: "something went wrong on the server; the request was dropped",
}
MISUSES = (KeyError, TypeError, ValueError)
"""What Gradio raises where a request lacks something or has the wrong type."""
REPLACED = frozenset({403, 404, 405, 422, 503})
"""Answers of Gradio's that repeat what was sent, or speak of its insides."""
logger = logging.getLogger(__name__)


class Refused(Exception):
    """The request is answered with this status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def is_open(method: str, path: str) -> bool:
    """Whether the page needs this route."""
    if len(path) > 2000 or "\0" in path or "\\" in path or "/../" in f"{path}/":
        return False
    if any(len(part.encode()) > LONGEST_NAME for part in path.split("/")):
        return False
    if method in ("GET", "HEAD"):
        if path.startswith(f"{API}/file="):
            return SCHEME.match(path.removeprefix(f"{API}/file=")) is None
        return path in GET_EXACT or path.startswith(GET_BELOW)
    return method == "POST" and (
        path in POST_EXACT or (path.startswith(POST_BELOW) and not path.startswith(CALL_V2))
    )


def check_session(value: object) -> None:
    if value is not None and not (isinstance(value, str) and SESSION.fullmatch(value)):
        raise Refused(400)


def check_address(scope: Scope) -> None:
    """A session in the path or the query is one that a page may have."""
    path = str(scope["path"])
    if path.startswith(HEARTBEAT):
        check_session(path.removeprefix(HEARTBEAT))
    query = bytes(scope.get("query_string", b""))
    if len(query) > 16_000:
        raise Refused(400)
    for name, values in parse_qs(query.decode("latin-1")).items():
        if name == "session_hash":
            for value in values:
                check_session(value)


def check_body(body: bytes) -> None:
    """A JSON object, its session such as a page may have."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400) from None
    if not isinstance(found, dict) or not isinstance(found.get("data", []), list):
        raise Refused(400)
    check_session(found.get("session_hash"))
    if not isinstance(found.get("fn_index", 0) or 0, int):
        raise Refused(400)


class Gate:
    """ASGI middleware: only the page's own routes, with requests of bounded size."""

    def __init__(self, app: App, limits: Limits | None = None) -> None:
        self.app = app
        self.limits = Limits() if limits is None else limits
        self.heartbeats = Heartbeats(app)
        self.device = Device()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            if not is_open(scope["method"], scope["path"]):
                raise Refused(404)
            check_address(scope)
            if scope["method"] == "POST":
                body = await asyncio.wait_for(self.read(scope, receive), BODY_S)
                check_body(body)
                receive = replayed(body, receive)
        except Refused as refused:
            await self.answer(send, refused.status)
            return
        except TimeoutError:
            await self.answer(send, 408)
            return
        await self.forward(scope, receive, send)

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body.

        Raises:
            Refused: larger than the limit, by its header or as it comes.
        """
        most, told = self.limits.body_bytes, content_length(scope)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400)
            part = bytes(message.get("body", b""))
            size += len(part)
            if max(size, told) <= most:
                parts.append(part)
            if size > DRAINED * most or not message.get("more_body", False):
                break
        if max(size, told) > most:
            raise Refused(413)
        return b"".join(parts)

    async def forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the page answer; its failures become short messages."""
        started = replaced = False

        async def forwarded(message: Message) -> None:
            nonlocal started, replaced
            if message["type"] == "http.response.start":
                started = True
                if message["status"] in REPLACED:
                    replaced = True
                    await self.answer(send, message["status"])
            if not replaced:
                await send(message)

        path = str(scope["path"])
        try:
            if scope["method"] == "GET" and path.startswith(HEARTBEAT):
                session = path.removeprefix(HEARTBEAT)
                await self.heartbeats.answer(session, scope, receive, forwarded)
            elif path == ADDRESS or path.startswith(f"{ADDRESS}/"):
                await self.device(scope, receive, forwarded)
            elif path in (INFO, f"{INFO}/"):
                await self.app(same_for_all(scope), receive, forwarded)
            else:
                await self.app(scope, receive, forwarded)
        except Exception as error:
            logger.warning("%s %r: %s", scope["method"], path[:80], type(error).__name__)
            if started:  # nothing can be taken back: the answer ends here
                with contextlib.suppress(Exception):
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            await self.answer(send, 400 if isinstance(error, MISUSES) else 500)

    async def answer(self, send: Send, status: int) -> None:
        """A short JSON answer; the connection is closed where the request was not read."""
        text = SHORT.get(status, SHORT[400]).format(limit=self.limits.body_bytes // 1024)
        body = json.dumps({"detail": text}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        if status in (408, 413):
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def same_for_all(scope: Scope) -> Scope:
    """A question for the description of the endpoints, without anything that changes it.

    Gradio writes examples into it with the address by which the first visitor came, which
    the visitor chooses, and gives all others the same; here it has none.
    """
    app = scope.get("app")
    if app is not None and not app.api_info:
        app.api_info = app.get_blocks().get_api_info()
    every = b"all_endpoints=True" if b"all_endpoints" in scope.get("query_string", b"") else b""
    return {**scope, "query_string": every}


def content_length(scope: Scope) -> int:
    """What the header promises; 0 where it does not say.

    Raises:
        Refused: not a number.
    """
    for name, value in scope["headers"]:
        if name.lower() == b"content-length":
            if not value.isdigit() or len(value) > 18:
                raise Refused(400)
            return int(value)
    return 0


def replayed(body: bytes, receive: Receive) -> Receive:
    """The body once more, then whatever the connection says."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def gate_options(limits: Limits) -> dict[str, Any]:
    """For ``launch(app_kwargs=...)``: the gate, the dial's sheets, and no documentation pages."""
    from starlette.middleware import Middleware

    return {
        "middleware": [Middleware(Gate, limits=limits)],
        "routes": ROUTES,
        "docs_url": None,
        "redoc_url": None,
        "openapi_url": None,
    }
