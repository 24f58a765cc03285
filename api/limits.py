"""How large a request may be, and how long it may take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from api.problems import Refused, response

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


SINGLE = 1024 * 1024
"""The largest body that concerns one thing, in bytes; the largest definition is under 700 KiB."""

MANY = ("/definitions", "/projects", "/documents", "/servers", "/servers/checks")
"""How the paths end that take many things at once."""


class Limits:
    """Refuses what is too large, and ends what takes too long.

    Args:
        app: What answers.
        body_bytes: The largest body of a PUT of many things; others are at most `SINGLE`.
        seconds: How long a request may take, from its head on to the head of its answer.
        patient: Paths that may take as long as they like.
    """

    def __init__(
        self, app: App, body_bytes: int, seconds: float, patient: frozenset[str] = frozenset()
    ) -> None:
        self._app = app
        self._body_bytes = body_bytes
        self._seconds = seconds
        self._patient = patient

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = asyncio.Event()

        async def answer(message: MutableMapping[str, Any]) -> None:
            begun.set()
            await send(message)

        try:
            seconds = None if scope["path"] in self._patient else self._seconds
            async with asyncio.timeout(seconds) as limit:
                await self._app(scope, self._counted(scope, receive), answer)
        except Refused as refused:  # raised while the body was read
            await self._refuse(refused, scope, receive, send, begun)
        except TimeoutError:
            if not limit.expired():
                raise
            said = (
                f"This took longer than {self._seconds:.0f} s, and was given up. Read again what "
                "was to be written, if anything."
            )
            await self._refuse(Refused(504, said), scope, receive, send, begun)

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        length = dict(scope["headers"]).get(b"content-length", b"")
        announced = int(length) if length.isdigit() else 0
        many = scope["method"] == "PUT" and scope["path"].endswith(MANY)
        most = self._body_bytes if many else min(self._body_bytes, SINGLE)
        too_large = Refused(413, f"The body is larger than {most} bytes; send less at once.")
        read = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if max(read, announced) > most:
                raise too_large
            return message

        return counted

    async def _refuse(
        self, refused: Refused, scope: Scope, receive: Receive, send: Send, begun: asyncio.Event
    ) -> None:
        if not begun.is_set():
            await response(refused, scope["path"])(scope, receive, send)
