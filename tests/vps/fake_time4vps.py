"""Time4VPS's API on loopback, in its documented shape, and what goes wrong there."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

USERNAME = "ops@acme.example"
PASSWORD = "pa55word-nobody-may-see"


@dataclass
class Answer:
    """An answer to one request; `cut` breaks the connection, `slow` never ends."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    slow: bool = False


WRONG_LOGIN = Answer(401, {"error": ["wronglogin"]})
NOT_ALLOWED = Answer(401, {"error": ["ipnotallowed", "unauthorized"]})
BROKEN = Answer(500, "<h1>Internal Server Error</h1>")


def wait_for(seconds: float) -> Answer:
    return Answer(401, {"error": [["wait_x_between_action", seconds], "unauthorized"]})


class FakeTime4VPS:
    """An account with servers. `fault` may answer a path in the account's place."""

    def __init__(self) -> None:
        self.address = ""
        self.listed: Any = []
        self.details: dict[str, Any] = {}
        self.fault: Callable[[str], Answer | None] = lambda path: None
        self.requests: list[str] = []
        self.gate: asyncio.Event | None = None
        self.waiting = 0
        self.released = asyncio.Event()

    def add(self, number: int, name: str = "id", **details: Any) -> None:
        """Adds a server, whose id the list gives under one name or the other."""
        ip, domain = f"192.0.2.{number}", f"vps{number}.example.com"
        self.listed.append({name: number, "domain": domain, "ip": ip, "status": "Active"})
        self.details[str(number)] = {
            "domain": domain,
            "label": "",
            "ip": ip,
            "additional_ip": [f"2001:db8::{number}"],
            "cpu_cores": 2,
            "cpu_frequency": 2600,
            "ram_limit": 4096,
            "ram_used": "1024.4",
            "disk_limit": 40960,
            "disk_usage": 8192,
            "bw_limit": 1,
            "os": "kvm-ubuntu-24.04-gpt-x86_64",
            "status": "Active",
            "active_task": {},
            "last_tasks": [],
            **details,
        }

    def remove(self, number: int) -> None:
        self.listed = [one for one in self.listed if number not in one.values()]
        del self.details[str(number)]

    def fail(self, *answers: Answer, at: str = "") -> None:
        """Gives these answers to requests whose path ends so, the last one for ever."""
        left = list(answers)

        def fault(path: str) -> Answer | None:
            if not path.endswith(at):
                return None
            return left.pop(0) if len(left) > 1 else left[0]

        self.fault = fault

    def mend(self) -> None:
        self.fault = lambda path: None

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            path = head[0].split(" ")[1]
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            self.requests.append(path)
            self.waiting += 1
            if self.gate and path != "/api/server":
                await self.gate.wait()
            self.waiting -= 1
            await self._answer(writer, self._says(path, headers.get("authorization", "")))
        writer.close()

    def _says(self, path: str, authorization: str) -> Answer:
        if (fault := self.fault(path)) is not None:
            return fault
        login = base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()).decode()
        if authorization != f"basic {login}".lower():
            return WRONG_LOGIN
        if path == "/api/server":
            return Answer(body=self.listed)
        return Answer(body=self.details[path.removeprefix("/api/server/")])

    async def _answer(self, writer: asyncio.StreamWriter, answer: Answer) -> None:
        if answer.cut:
            return
        body = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
        headers = {
            "Content-Length": str(len(body.encode())),
            "Connection": "close",
            **answer.headers,
        }
        lines = [f"HTTP/1.1 {answer.status} Told So", *map(": ".join, headers.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        if answer.slow:
            writer.write(body[:1].encode())
            await self.released.wait()
            return
        writer.write(body.encode())
        await writer.drain()


@asynccontextmanager
async def serving() -> AsyncIterator[FakeTime4VPS]:
    """Yields an account without servers, which is served."""
    account = FakeTime4VPS()
    listener = await asyncio.start_server(account.handle, "127.0.0.1", 0)
    account.address = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/api"
    try:
        yield account
    finally:
        account.released.set()
        listener.close()
        await listener.wait_closed()
