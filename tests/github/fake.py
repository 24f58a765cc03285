"""A server that answers as GitHub documents its API, and fails on demand."""

import asyncio
import hashlib
import inspect
import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import jwt

TOKEN = "ghp_t0ken-nobody-may-see"
BEGAN = datetime(2026, 11, 21, 10, tzinfo=UTC)


class Clock:
    """A clock that only sleeping moves on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(round(seconds, 3))
        self.now += seconds


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    status: int | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass
class Answer:
    status: int = 200
    document: Any = None
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    fault: str = ""
    """`cut`: the connection breaks instead; `slow`: the body never ends."""


PRIMARY = Answer(403, {"message": "API rate limit exceeded for user ID 1."})
SECONDARY = Answer(
    403, {"message": "You have exceeded a secondary rate limit. Please wait a few minutes."}
)
ABUSE = Answer(429, {"message": "Slow down."}, headers={"Retry-After": "17"})
BROKEN = Answer(502, {"message": "Server Error"})
CUT = Answer(fault="cut")
SLOW = Answer(fault="slow")


class FakeGitHub:
    """An organization `acme`, its repositories, and what is in them."""

    def __init__(self, clock: Clock, prefix: str = "") -> None:
        self.clock = clock
        self.prefix = prefix
        self.address = ""
        self.organization = "acme"
        self.repositories: list[dict[str, Any]] = []
        self.files: dict[tuple[str, str], bytes] = {}
        self.tokens = {TOKEN: BEGAN + timedelta(days=365)}
        self.app_key = ""
        self.app_id = "4711"
        self.requests: list[Request] = []
        self.limit, self.remaining, self.reset = 5000, 5000, BEGAN + timedelta(hours=1)
        self.released = asyncio.Event()
        self._faults: list[tuple[str, Answer]] = []
        self._before: Callable[[Request], Any] = lambda request: None

    @property
    def now(self) -> datetime:
        return BEGAN + timedelta(seconds=self.clock.now)

    @property
    def asked(self) -> list[str]:
        return [str(request) for request in self.requests]

    def add(self, name: str, **fields: Any) -> dict[str, Any]:
        """Has the organization make a repository; its files are in `files`."""
        number = 1 + max((int(one["id"]) for one in self.repositories), default=1000)
        repository = {
            "id": number,
            "node_id": f"R_{number}",
            "name": name,
            "full_name": f"{self.organization}/{name}",
            "private": True,
            "owner": {"login": self.organization, "type": "Organization"},
            "html_url": f"https://github.com/{self.organization}/{name}",
            "description": f"The {name}.",
            "fork": False,
            "default_branch": "main",
            "topics": ["python"],
            "archived": False,
            "visibility": "private",
            "pushed_at": "2026-11-20T12:00:00Z",
            "created_at": "2026-01-01T00:00:00Z",
            **fields,
        }
        self.repositories.append(repository)
        return repository

    def remove(self, name: str) -> dict[str, Any]:
        [gone] = [one for one in self.repositories if one["name"] == name]
        self.repositories.remove(gone)
        return gone

    def fail(self, pattern: str, *answers: Answer) -> None:
        """Answers the next requests whose path and query fit with these, once each."""
        self._faults += [(pattern, answer) for answer in answers]

    def before(self, do: Callable[[Request], Any]) -> None:
        """Does something whenever a request has come."""
        self._before = do

    # -- HTTP

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        await reader.readexactly(int(headers.get("content-length", 0)))
        method, target, _ = first.split(" ")
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        request = Request(method, url.path, query, headers)
        self.requests.append(request)
        if inspect.isawaitable(done := self._before(request)):
            await done
        answer = self._fault(target) or self._answer(request)
        if answer.fault == "cut":
            return False
        body = json.dumps(answer.document).encode() if answer.document is not None else answer.body
        request.status = answer.status
        told = {
            "Date": format_datetime(self.now, usegmt=True),
            "Content-Length": str(len(body)),
            "Content-Type": "application/json; charset=utf-8",
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(int(self.reset.timestamp())),
            **answer.headers,
        }
        head = [f"HTTP/1.1 {answer.status} Told So", *map(": ".join, told.items()), "", ""]
        if answer.fault == "slow":
            writer.write("\r\n".join(head).encode() + body[: len(body) // 2])
            await writer.drain()
            await self.released.wait()
            return False
        writer.write("\r\n".join(head).encode() + (b"" if answer.status == 304 else body))
        await writer.drain()
        return True

    def _fault(self, target: str) -> Answer | None:
        for number, (pattern, answer) in enumerate(self._faults):
            if re.search(pattern, target):
                del self._faults[number]
                if answer.fault == "slow":
                    return Answer(document=["half of this comes"], fault="slow")
                return answer
        return None

    # -- the API

    def _answer(self, request: Request) -> Answer:
        if not request.path.startswith(f"{self.prefix}/"):
            return Answer(404, {"message": "Not Found"})
        path = request.path.removeprefix(self.prefix)
        if path.startswith("/app/") or path.endswith("/installation"):
            return self._app(request, path)
        secret = request.headers.get("authorization", " ").split(" ")[-1]
        if self.tokens.get(secret, BEGAN - timedelta(days=1)) <= self.now:
            return Answer(401, {"message": f"Bad credentials {secret}"})
        if self.now >= self.reset:
            self.remaining, self.reset = self.limit, self.now + timedelta(hours=1)
        if self.remaining <= 0:
            return PRIMARY
        answer = self._content(request, path)
        if answer.status != 304:
            self.remaining -= 1
        return answer

    def _content(self, request: Request, path: str) -> Answer:
        if path == f"/orgs/{self.organization}":
            return Answer(document={"login": self.organization, "id": 1, "url": self._url(path)})
        if path in (f"/orgs/{self.organization}/repos", "/organizations/1/repos"):
            return self._page(request)
        if found := re.fullmatch(r"/repositories/([0-9]+)", path):
            known = [one for one in self.repositories if one["id"] == int(found[1])]
            return Answer(document=known[0]) if known else Answer(404, {"message": "Not Found"})
        found = re.fullmatch(r"/repos/([^/]+/[^/]+)/(contents/(.+)|readme|git/trees/(.+))", path)
        if not found:
            return Answer(404, {"message": "Not Found"})
        name = unquote(found[1])
        own = {path: body for (whose, path), body in self.files.items() if whose == name}
        if found[4]:
            return self._tree(own)
        wanted = unquote(found[3] or "README.md")
        if any(one.startswith(f"{wanted}/") for one in own):
            return Answer(document=[{"type": "file"}])
        if wanted not in own:
            return Answer(404, {"message": "Not Found"})
        assert request.headers["accept"] == "application/vnd.github.raw+json"
        raw = {"Content-Type": "application/vnd.github.raw+json; charset=utf-8"}
        return Answer(body=own[wanted], headers=raw)

    def _tree(self, files: dict[str, bytes]) -> Answer:
        if not files:
            return Answer(409, {"message": "Git Repository is empty."})
        blobs = [
            {"path": path, "mode": "100644", "type": "blob", "sha": hashlib.sha1(body).hexdigest()}
            for path, body in files.items()
        ]
        folder = {"path": "docs", "mode": "040000", "type": "tree", "sha": "0" * 40}
        link = {"path": "LINK.md", "mode": "120000", "type": "blob", "sha": "1" * 40, "size": 4}
        return Answer(
            document={"sha": "2" * 40, "tree": [folder, link, *blobs], "truncated": False}
        )

    def _page(self, request: Request) -> Answer:
        size = int(request.query.get("per_page", 30))
        number = int(request.query.get("page", 1))
        shown = self.repositories[(number - 1) * size : number * size]
        etag = 'W/"' + hashlib.sha256(json.dumps(shown).encode()).hexdigest() + '"'
        if request.headers.get("if-none-match") == etag:
            return Answer(304, headers={"ETag": etag})
        headers = {"ETag": etag}
        if number * size < len(self.repositories):
            query = urlencode({**request.query, "page": number + 1})
            url = self._url(f"/organizations/1/repos?{query}")
            headers["Link"] = f'<{url}>; rel="next", <{url}>; rel="last"'
        return Answer(document=shown, headers=headers)

    def _url(self, path: str) -> str:
        return f"{self.address}{self.prefix}{path}"

    def _app(self, request: Request, path: str) -> Answer:
        shown = request.headers["authorization"].removeprefix("Bearer ")
        claims = jwt.decode(shown, self.app_key, ["RS256"], options={"verify_exp": True})
        if claims["iss"] != self.app_id:
            return Answer(401, {"message": "A JSON web token could not be decoded"})
        if path == f"/orgs/{self.organization}/installation":
            return Answer(document={"id": 99, "app_id": int(self.app_id)})
        if path == "/app/installations/99/access_tokens" and request.method == "POST":
            token = f"ghs_{len(self.tokens)}-nobody-may-see"
            self.tokens[token] = self.now + timedelta(hours=1)
            expires = self.tokens[token].strftime("%Y-%m-%dT%H:%M:%SZ")
            return Answer(201, {"token": token, "expires_at": expires})
        return Answer(404, {"message": "Not Found"})
