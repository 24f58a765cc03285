import asyncio
import json
import logging
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import ValidationError

from blocks import Records
from blocks.outgoing import Backoff
from blocks.records import (
    RecordsAnswerUnusable,
    RecordsRefused,
    RecordsUnavailable,
    TenantRecords,
)

TOKEN = "rota_t0ken-nobody-may-see"
KEY = "d-1:2026-11-21T10:00:00Z"


@dataclass
class Answer:
    """What the server does with one request."""

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    silent: bool = False

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


class ScriptedServer:
    """An HTTP server that gives the answers it was told to, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [Answer()]
        self.requests: list[Request] = []
        self.connections = 0
        self.released = asyncio.Event()
        self.address = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while request := await self._read(reader):
            self.requests.append(request)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if answer.silent:
                await self.released.wait()
            if answer.silent or answer.cut:
                break
            content = b"" if answer.status == 204 else answer.content
            headers = {"Content-Length": str(len(content)), **answer.headers}
            lines = [f"HTTP/1.1 {answer.status} Told So", *map(": ".join, headers.items())]
            writer.write("\r\n".join([*lines, "", ""]).encode() + content)
        writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Request | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().strip()
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, target, _ = first.split(" ")
        return Request(method, target, headers, body)


async def serving() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    listener = await asyncio.start_server(scripted.handle, "127.0.0.1", 0)
    scripted.address = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    yield scripted
    scripted.released.set()
    listener.close()
    await listener.wait_closed()


server = pytest.fixture(serving)
other_server = pytest.fixture(serving)


class Clock:
    """A clock that only sleeping moves on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    @property
    def backoff(self) -> Backoff:
        return Backoff(clock=lambda: self.now, sleep=self.sleep, jitter=lambda: 1.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def acme(server: ScriptedServer, clock: Clock) -> AsyncIterator[TenantRecords]:
    records = Records(base_url=server.address, token=TOKEN, read_seconds=0.2)
    async with records.of("acme", backoff=clock.backoff) as opened:
        yield opened


CALLS = {
    "get": lambda acme: acme.get("servers"),
    "pages": lambda acme: anext(acme.pages("servers")),
    "put": lambda acme: acme.put("servers", body={"servers": []}),
    "delete": lambda acme: acme.delete("servers", "vps-1"),
    "post with a key": lambda acme: acme.post("notices", body={"a": 1}, idempotency_key=KEY),
    "post": lambda acme: acme.post("notices", body={"a": 1}),
    "patch": lambda acme: acme.patch("servers", "vps-1", body={"a": 1}),
}
REPEATED = ["get", "pages", "put", "delete", "post with a key"]
MADE_ONCE = ["post", "patch"]
PASSING = [Answer(503), Answer(cut=True), Answer(429), Answer(500), Answer(silent=True)]


class TestStandards(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return Records


# -- what is sent, and what comes back


@pytest.mark.parametrize(
    ("call", "method", "target", "body"),
    [
        (lambda acme: acme.get("servers", params={"q": "a b"}), "GET", "servers?q=a+b", None),
        (lambda acme: acme.put("servers", body=[1]), "PUT", "servers", [1]),
        (lambda acme: acme.post("notices", body={"a": 1}), "POST", "notices", {"a": 1}),
        (lambda acme: acme.post("notices", "send"), "POST", "notices/send", None),
        (lambda acme: acme.patch("servers", "v", body={"a": 1}), "PATCH", "servers/v", {"a": 1}),
        (
            lambda acme: acme.put("servers", body={}, params={"dry_run": True, "at": ["1", "2"]}),
            "PUT",
            "servers?dry_run=true&at=1&at=2",
            {},
        ),
    ],
)
async def test_a_call_reaches_the_tenants_records(server, acme, call, method, target, body):
    server.answers = [Answer(body={"created": ["vps-1"]})]

    assert await call(acme) == {"created": ["vps-1"]}

    [request] = server.requests
    assert (request.method, request.target) == (method, f"/api/v1/tenants/acme/{target}")
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert (json.loads(request.body) if request.body else None) == body
    kind = None if body is None else "application/json"
    assert request.headers.get("content-type") == kind
    assert "idempotency-key" not in request.headers


async def test_a_post_carries_its_idempotency_key(server, acme):
    await acme.post("notices", idempotency_key=KEY)

    assert server.requests[0].headers["idempotency-key"] == KEY


async def test_an_answer_without_content_is_none(server, acme):
    server.answers = [Answer(204)]

    assert await acme.put("servers", body={}) is None


@pytest.mark.parametrize(("status", "was_there"), [(204, True), (404, False)])
async def test_deleting_tells_whether_it_was_there(server, acme, status, was_there):
    server.answers = [Answer(status)]

    assert await acme.delete("servers", "vps-1") is was_there
    assert server.requests[0].method == "DELETE"


async def test_a_delete_whose_answer_was_lost_is_done(server, acme):
    server.answers = [Answer(cut=True), Answer(404)]

    assert await acme.delete("servers", "vps-1") is False


async def test_calls_share_a_connection(server, acme):
    for _ in range(3):
        await acme.get("servers")

    assert (len(server.requests), server.connections) == (3, 1)


@pytest.mark.parametrize(
    ("part", "target"),
    [
        ("a b", "a%20b"),
        ("a/b", "a%2Fb"),
        ("x?y=1#z", "x%3Fy%3D1%23z"),
        ("%2e%2e", "%252e%252e"),
        ("ä", "%C3%A4"),
        ("..a", "..a"),
    ],
)
async def test_what_comes_from_outside_is_one_part_of_the_path(server, acme, part, target):
    await acme.get("servers", part, "incidents")

    assert server.requests[0].target == f"/api/v1/tenants/acme/servers/{target}/incidents"


@pytest.mark.parametrize("part", ["", " ", ".", "..", "../x", "a/../../x", "..\\x"])
async def test_a_part_of_the_path_cannot_leave_its_place(server, acme, part):
    with pytest.raises(ValueError, match="is not a name that a path can hold"):
        await acme.get("servers", part)
    with pytest.raises(ValueError, match="is not a tenant that a path can hold"):
        async with Records(base_url=server.address, token=TOKEN).of(part):
            pass
    assert server.requests == []


async def test_the_path_below_the_address_is_kept(server):
    server.answers = [
        Answer(body={"items": [], "next": "/api/v1/tenants/acme/servers?after=a"}),
        Answer(body={"items": [], "next": None}),
    ]
    records = Records(base_url=f"{server.address}/rota/", token=TOKEN)

    async with records.of("acme") as acme:
        assert [page async for page in acme.pages("servers")] == [[], []]

    below = "/rota/api/v1/tenants/acme/servers"
    assert [one.target for one in server.requests] == [f"{below}?limit=50", f"{below}?after=a"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda acme: acme.put("servers", body={"load": float("nan")}), "JSON"),
        (lambda acme: acme.post("notices", idempotency_key=""), "idempotency key"),
        (lambda acme: acme.post("notices", idempotency_key="a\r\nX-Evil: 1"), "idempotency key"),
    ],
)
async def test_what_cannot_be_sent_is_refused(server, acme, call, message):
    with pytest.raises(ValueError, match=message):
        await call(acme)
    assert server.requests == []


# -- lists


async def test_a_list_is_followed_to_its_end(server, acme):
    here = "/api/v1/tenants/acme/servers"
    server.answers = [
        Answer(body={"items": [{"n": 1}, {"n": 2}], "next": f"{here}?limit=2&q=v&after=Mg%3D"}),
        Answer(body={"items": [{"n": 3}], "next": None}),
    ]

    pages = [page async for page in acme.pages("servers", params={"q": "v"}, size=2)]

    assert pages == [[{"n": 1}, {"n": 2}], [{"n": 3}]]
    assert [one.target for one in server.requests] == [
        f"{here}?q=v&limit=2",
        f"{here}?limit=2&q=v&after=Mg%3D",
    ]


async def test_a_list_that_goes_on_elsewhere_is_followed_here(server, other_server, acme):
    server.answers = [
        Answer(body={"items": [], "next": f"{other_server.address}/steal?after=b"}),
        Answer(body={"items": [], "next": None}),
    ]

    assert [page async for page in acme.pages("servers")] == [[], []]
    assert server.requests[1].target == "/api/v1/tenants/acme/servers?after=b"
    assert other_server.requests == []


@pytest.mark.parametrize(
    "body",
    [[], {"items": []}, {"next": None}, {"items": 1, "next": None}, {"items": [1], "next": None}],
    ids=str,
)
async def test_what_is_no_page_ends_a_list(server, acme, body):
    server.answers = [Answer(body=body)]

    with pytest.raises(RecordsAnswerUnusable, match="GET servers is no page of a list"):
        await anext(acme.pages("servers"))


# -- what passes by itself


@pytest.mark.parametrize("call", REPEATED)
async def test_what_can_be_done_twice_is_tried_again(server, acme, clock, call):
    server.answers = [*PASSING, Answer(body={"items": [], "next": None})]

    await CALLS[call](acme)

    assert clock.sleeps == [1, 5, 10, 20, 40]
    first, *others = [(r.method, r.target, r.headers, r.body) for r in server.requests]
    assert others == [first] * 5


@pytest.mark.parametrize("answer", PASSING, ids=str)
@pytest.mark.parametrize("call", MADE_ONCE)
async def test_what_cannot_be_done_twice_is_made_once(server, acme, clock, call, answer):
    server.answers = [answer, Answer()]

    with pytest.raises(RecordsUnavailable, match=r"It was not tried again"):
        await CALLS[call](acme)
    assert len(server.requests) == 1
    assert clock.sleeps == []


async def test_a_server_that_is_not_there_is_tried_until_the_deadline(unused_tcp_port, clock):
    records = Records(base_url=f"http://127.0.0.1:{unused_tcp_port}", token=TOKEN)

    async with records.of("acme", backoff=clock.backoff) as acme:
        with pytest.raises(RecordsUnavailable) as caught:
            await acme.get("servers")

    assert sum(clock.sleeps) == 295
    assert str(caught.value) == (
        f"Rota did not do GET http://127.0.0.1:{unused_tcp_port}/api/v1/tenants/acme/servers, "
        "10 tries in 295.0 s. The last answer: ConnectError: All connection attempts failed"
    )


@pytest.mark.parametrize("call", ["get", "post"])
async def test_a_slow_answer_does_not_outlast_the_deadline(server, call):
    server.answers = [Answer(silent=True)]
    records = Records(base_url=server.address, token=TOKEN, deadline_seconds=0.2)

    async with records.of("acme") as acme:
        with pytest.raises(RecordsUnavailable, match=r": TimeoutError"):
            await CALLS[call](acme)


async def test_the_last_answer_stands_in_the_error(server):
    server.answers = [Answer(503, problem("The definitions database does not answer."))]
    records = Records(base_url=server.address, token=TOKEN, deadline_seconds=0.5)

    async with records.of("acme") as acme:
        with pytest.raises(RecordsUnavailable, match=r"503 Told So: The definitions database does"):
            await acme.get("servers")


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_kept_to(server, acme, clock, status):
    server.answers = [Answer(status, headers={"Retry-After": "17"}), Answer()]

    await acme.get("servers")
    assert clock.sleeps == [17]


async def test_a_retry_after_beyond_the_deadline_is_not_waited_for(server, acme, clock):
    server.answers = [Answer(503, headers={"Retry-After": "301"})]

    with pytest.raises(RecordsUnavailable, match="1 try in"):
        await acme.get("servers")
    assert clock.sleeps == []


async def test_a_retry_is_logged_with_its_action(server, acme, caplog):
    server.answers = [Answer(503, problem("It is busy.")), Answer()]

    await acme.get("servers")
    [record] = [r for r in caplog.records if hasattr(r, "action")]
    assert record.action == "records_retry"
    assert record.getMessage() == (
        "Rota failed try 1: 503 Told So: It is busy.; trying again in 1.0 s."
    )


# -- what does not


def problem(detail: str, *errors: tuple[str, str]) -> dict[str, Any]:
    faults = [{"field": field, "detail": detail} for field, detail in errors]
    return {"type": "about:blank", "status": 0, "detail": detail, "errors": faults}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [400, 401, 403, 409, 422])
async def test_a_refusal_is_final(server, acme, clock, call, status):
    server.answers = [Answer(status, problem("No."))]

    with pytest.raises(
        RecordsRefused, match=rf"^Rota refused .* with {status} Told So: No\.$"
    ) as c:
        await CALLS[call](acme)
    assert c.value.status == status
    assert clock.sleeps == []


async def test_a_refusal_names_the_fields(server, acme):
    said = problem("It does not fit; ip: 'x' is none.", ("ip", "'x' is none."), ("", "Look again."))
    server.answers = [Answer(422, said)]

    with pytest.raises(RecordsRefused) as caught:
        await acme.put("servers", body={})

    assert caught.value.errors == (("ip", "'x' is none."), ("", "Look again."))
    # What the detail says already is not said again.
    assert str(caught.value).endswith("422 Told So: It does not fit; ip: 'x' is none.; Look again.")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "404 Told So"),
        (b"<html>" + b"x" * 400, f"404 Told So: <html>{'x' * 248}"),
        ({"error": "no"}, '404 Told So: {"error": "no"}'),
        (problem("y" * 3000), f"404 Told So: {'y' * 2000}"),
    ],
    ids=["nothing", "HTML", "another's JSON", "much"],
)
async def test_a_refusal_by_something_else_is_shown_in_part(server, acme, body, said):
    server.answers = [Answer(404, body)]

    with pytest.raises(RecordsRefused) as caught:
        await acme.get("servers")
    assert str(caught.value).endswith(f"/servers with {said}")
    assert caught.value.errors == ()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>welcome</html>",
        b"\xff\xfe",
        b"[" * 100_000,
        pytest.param(b'"' + b"x" * (33 << 20) + b'"', id="too large"),
    ],
    ids=lambda body: repr(body[:16]),
)
async def test_an_answer_that_is_no_json_is_of_no_use(server, acme, clock, body):
    server.answers = [Answer(body=body)]

    with pytest.raises(RecordsAnswerUnusable, match="no JSON of at most 32 MiB") as caught:
        await acme.get("servers")
    assert len(str(caught.value)) < 600
    assert clock.sleeps == []


def test_errors_survive_pickling():
    # Prefect stores a failed run's exception as its result.
    error = pickle.loads(pickle.dumps(RecordsRefused("no", 422, [("ip", "none")])))

    assert (str(error), error.status, error.errors) == ("no", 422, (("ip", "none"),))


# -- who sees the token


async def test_a_redirect_is_not_followed(server, other_server, acme):
    server.answers = [Answer(307, headers={"Location": f"{other_server.address}/elsewhere"})]

    with pytest.raises(
        RecordsRefused, match=r"307 Told So.* leads to http.*/elsewhere, and is not"
    ):
        await acme.get("servers")
    assert other_server.requests == []


async def test_a_redirect_that_repeats_the_token_is_masked(server, acme):
    server.answers = [Answer(302, headers={"Location": f"https://example.com/?token={TOKEN}"})]

    with pytest.raises(RecordsRefused, match=r"leads to https://example.com/\?token=\*{10}, and"):
        await acme.get("servers")


def opened(address: str, clock: Clock) -> AbstractAsyncContextManager[TenantRecords]:
    return Records(base_url=address, token=TOKEN).of("acme", backoff=clock.backoff)


async def test_a_proxy_is_not_handed_the_token(server, other_server, clock, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, other_server.address)

    async with opened(server.address, clock) as acme:
        await acme.get("servers")
    assert len(server.requests) == 1
    assert other_server.connections == 0


async def test_a_proxy_makes_a_tunnel_and_sees_nothing(other_server, clock, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", other_server.address)
    monkeypatch.setenv("https_proxy", other_server.address)
    other_server.answers = [Answer(502)]

    async with opened("https://rota.invalid", clock) as acme:
        with pytest.raises(RecordsUnavailable, match="ProxyError: 502 Told So"):
            await acme.get("servers")

    assert {(r.method, r.target) for r in other_server.requests} == {
        ("CONNECT", "rota.invalid:443")
    }
    assert not any(TOKEN in str(request) for request in other_server.requests)


async def test_the_token_is_seen_by_nobody(server, acme, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    echo = problem("x" * 1990 + TOKEN, (f"header {TOKEN}", f"I do not know {TOKEN}"))
    server.answers = [
        Answer(503, f"<p>{TOKEN}</p>".encode()),
        Answer(503, echo),
        Answer(401, echo),
        Answer(200, TOKEN.encode()),
    ]

    with pytest.raises(RecordsRefused) as refused:
        await acme.get("servers")
    with pytest.raises(RecordsAnswerUnusable) as unusable:
        await acme.get("servers")

    printed = capfd.readouterr()
    records = Records(base_url=server.address, token=TOKEN)
    seen = [str(refused.value), str(refused.value.errors), str(unusable.value)]
    seen += [caplog.text, printed.out, printed.err]
    seen += [repr(records), str(records), repr(acme), repr(vars(acme))]
    assert all(TOKEN not in text for text in seen)
    assert str(refused.value).endswith("x**********")


@pytest.mark.parametrize(
    "fields",
    [
        {"base_url": "ftp://example.com"},
        {"base_url": "example.com"},
        {"base_url": f"https://user:{TOKEN}@example.com"},
        {"base_url": f"https://example.com/?key={TOKEN}"},
        {"token": ""},
        {"token": f"{TOKEN}\n"},
        {"token": f"{TOKEN}ä"},
        {"connect_seconds": 0},
        {"read_seconds": -1},
        {"deadline_seconds": 0},
    ],
    ids=str,
)
def test_a_wrong_field_is_refused_without_being_repeated(fields):
    with pytest.raises(ValidationError) as caught:
        Records(**{"base_url": "https://example.com", "token": TOKEN, **fields})
    assert TOKEN not in str(caught.value)


def test_prefect_keeps_the_token_whole_and_secret():
    records = Records(base_url="https://example.com", token=TOKEN)

    stored = records.model_dump(mode="json", context={"include_secrets": True})
    assert stored["token"] == TOKEN
    assert Records.model_json_schema()["secret_fields"] == ["token"]


def test_prefect_finds_the_block_without_being_told():
    finding = (
        "from prefect.blocks.core import Block; "
        "print(Block.get_block_class_from_key('records').__module__)"
    )
    found = subprocess.run(
        [sys.executable, "-c", finding], check=True, capture_output=True, text=True
    )

    assert found.stdout.strip() == "blocks.records"
