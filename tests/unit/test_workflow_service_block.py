import asyncio
import json
import logging
import pickle
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import ValidationError

from blocks import WorkflowService
from blocks.workflow_service import (
    Backoff,
    Execution,
    WorkflowAnswerUnusable,
    WorkflowRefused,
    WorkflowServiceUnavailable,
)

TOKEN = "t0ken-nobody-may-see"


@dataclass
class Answer:
    """What the server does with one request."""

    status: int = 200
    body: bytes = b'{"executionId": "e-1", "status": "running"}'
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    silent: bool = False


@dataclass
class Request:
    target: str
    headers: dict[str, str]
    body: bytes


class ScriptedServer:
    """An HTTP server that gives the answers it was told to, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [Answer()]
        self.requests: list[Request] = []
        self.released = asyncio.Event()
        self.address = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await self._read(reader)
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer.silent:
            await self.released.wait()
        elif not answer.cut:
            headers = {
                "Content-Length": str(len(answer.body)),
                "Connection": "close",
                **answer.headers,
            }
            lines = [f"HTTP/1.1 {answer.status} Told So", *map(": ".join, headers.items())]
            writer.write("\r\n".join([*lines, "", ""]).encode() + answer.body)
        writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Request:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers["content-length"]))
        return Request(first.split(" ")[1], headers, body)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer()
    listener = await asyncio.start_server(scripted.handle, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    scripted.address = f"http://127.0.0.1:{port}"
    yield scripted
    scripted.released.set()
    listener.close()
    await listener.wait_closed()


class Clock:
    """A clock that only sleeping moves on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def execute(server: ScriptedServer, clock: Clock) -> Callable[..., Any]:
    async def call(**changes: Any) -> Execution:
        block = {
            key: changes.pop(key) for key in ("read_seconds", "execute_path") if key in changes
        }
        service = WorkflowService(base_url=server.address, token=TOKEN, **block)
        arguments = {
            "workflow_id": "wf-1",
            "body": {"input": {"a": 1}},
            "idempotency_key": "d-1:2026-11-21T10:00:00Z",
            "backoff": Backoff(clock=lambda: clock.now, sleep=clock.sleep, jitter=lambda: 1.0),
        }
        return await service.execute(**{**arguments, **changes})

    return call


class TestStandards(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return WorkflowService


async def test_a_workflow_is_started(server, execute):
    assert await execute() == Execution(id="e-1", tries=1)

    [request] = server.requests
    assert request.target == "/api/workflow/wf-1/execute"
    assert json.loads(request.body) == {"input": {"a": 1}}
    assert request.headers["content-type"] == "application/json"
    assert request.headers["idempotency-key"] == "d-1:2026-11-21T10:00:00Z"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"


async def test_without_a_token_no_authorization_is_sent(server):
    await WorkflowService(base_url=server.address, token="").execute("wf-1", {}, "key")

    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    ("answer", "execution_id"),
    [
        ({"execution_id": "e-2"}, "e-2"),
        ({"id": "e-3"}, "e-3"),
        ({"id": 7}, "7"),
        ({"executionId": None, "id": "e-4"}, "e-4"),
        ({"executionId": "e-5", "id": "request-1"}, "e-5"),
    ],
)
async def test_the_execution_id_has_several_names(server, execute, answer, execution_id):
    server.answers = [Answer(status=202, body=json.dumps(answer).encode())]

    assert (await execute()).id == execution_id


async def test_passing_troubles_are_tried_again_with_the_same_key(server, execute, clock):
    server.answers = [
        Answer(503),
        Answer(cut=True),
        Answer(429),
        Answer(500),
        Answer(silent=True),
        Answer(502),
        Answer(504),
        Answer(),
    ]

    assert await execute(read_seconds=0.2) == Execution(id="e-1", tries=8)
    assert clock.sleeps == [1, 5, 10, 20, 40, 60, 60]
    assert {r.headers["idempotency-key"] for r in server.requests} == {"d-1:2026-11-21T10:00:00Z"}
    assert {r.body for r in server.requests} == {b'{"input": {"a": 1}}'}


async def test_a_server_that_is_not_there_is_tried_until_the_deadline(unused_tcp_port, clock):
    service = WorkflowService(base_url=f"http://127.0.0.1:{unused_tcp_port}")
    backoff = Backoff(clock=lambda: clock.now, sleep=clock.sleep, jitter=lambda: 1.0)

    with pytest.raises(WorkflowServiceUnavailable) as caught:
        await service.execute("wf-1", {}, "key", backoff=backoff)

    # 39 seconds instead of 60, so that the tenth try comes 5 seconds before the deadline.
    assert clock.sleeps == [1, 5, 10, 20, 40, 60, 60, 60, 39]
    assert str(caught.value) == (
        "The workflow service did not start the workflow: "
        f"POST http://127.0.0.1:{unused_tcp_port}/api/workflow/wf-1/execute failed, "
        "10 tries in 295.0 s. The last answer: ConnectError: All connection attempts failed"
    )


async def test_the_last_answer_stands_in_the_error(server, execute):
    server.answers = [Answer(503, b"overloaded")]

    with pytest.raises(WorkflowServiceUnavailable, match=r"1 try in .* 503 Told So: overloaded$"):
        await execute(deadline_seconds=0.5)


async def test_a_slow_answer_does_not_outlast_the_deadline(server, execute):
    server.answers = [Answer(silent=True)]

    with pytest.raises(WorkflowServiceUnavailable, match=r"The last answer: TimeoutError$"):
        await execute(deadline_seconds=0.2)


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_in_seconds_is_kept_to(server, execute, clock, status):
    server.answers = [Answer(status, headers={"Retry-After": "17"}), Answer()]

    assert (await execute()).tries == 2
    assert clock.sleeps == [17]


async def test_retry_after_as_a_date_is_measured_by_the_services_clock(server, execute, clock):
    headers = {
        "Date": "Sat, 21 Nov 2020 10:00:00 GMT",
        "Retry-After": "Sat, 21 Nov 2020 10:01:30 GMT",
    }
    server.answers = [Answer(503, headers=headers), Answer()]

    await execute()
    assert clock.sleeps == [90]


async def test_retry_after_as_a_date_without_the_services_clock(server, execute, clock):
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    server.answers = [Answer(503, headers={"Retry-After": until}), Answer()]

    await execute()
    [slept] = clock.sleeps
    assert 60 < slept <= 100


@pytest.mark.parametrize("value", ["0", "Sat, 21 Nov 2020 10:00:00 GMT", "soon", "-5", ""])
async def test_a_retry_after_of_no_use_still_leaves_a_second(server, execute, clock, value):
    server.answers = [Answer(503, headers={"Retry-After": value}), Answer()]

    await execute()
    assert clock.sleeps == [1]


async def test_a_retry_after_beyond_the_deadline_is_not_waited_for(server, execute, clock):
    server.answers = [Answer(503, headers={"Retry-After": "9" * 400})]

    with pytest.raises(WorkflowServiceUnavailable, match="1 try in"):
        await execute()
    assert clock.sleeps == []


def test_delays_are_jittered_by_a_fifth():
    delays = {Backoff().wait(tries=6, left=300) for _ in range(50)}

    assert len(delays) > 1
    assert all(delay is not None and 48 <= delay <= 72 for delay in delays)


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422])
async def test_a_refusal_is_final(server, execute, clock, status):
    server.answers = [Answer(status, b"x" * 253 + b"yz" + b"never shown" * 50)]

    with pytest.raises(WorkflowRefused) as caught:
        await execute()
    assert caught.value.status == status
    assert str(caught.value).endswith(f"with {status} Told So: {'x' * 253}y")
    assert clock.sleeps == []


async def test_a_redirect_is_not_followed(server, execute):
    server.answers = [Answer(307, b"", {"Location": f"{server.address}/elsewhere"})]

    with pytest.raises(WorkflowRefused, match=r"with 307 Told So$"):
        await execute()
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>welcome</html>",
        b"[]",
        b'"e-1"',
        b"{}",
        b'{"executionId": ""}',
        b'{"executionId": true}',
        b'{"id": {"a": 1}}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"executionId": "e-1", "more": "' + b"x" * (2 << 20) + b'"}',
    ],
    ids=lambda body: repr(body[:16]),
)
async def test_an_answer_without_an_execution_id_fails_at_once(server, execute, clock, body):
    server.answers = [Answer(body=body)]

    with pytest.raises(WorkflowAnswerUnusable, match="200 Told So") as caught:
        await execute()
    assert len(str(caught.value)) < 600
    assert clock.sleeps == []


@pytest.mark.parametrize(
    ("workflow_id", "target"),
    [
        ("a b", "/api/workflow/a%20b/execute"),
        ("a/b", "/api/workflow/a%2Fb/execute"),
        ("x?y=1#z", "/api/workflow/x%3Fy%3D1%23z/execute"),
        ("%2e%2e", "/api/workflow/%252e%252e/execute"),
        ("ä", "/api/workflow/%C3%A4/execute"),
        ("{workflow_id}", "/api/workflow/%7Bworkflow_id%7D/execute"),
        ("..a", "/api/workflow/..a/execute"),
    ],
)
async def test_a_workflow_id_is_one_part_of_the_path(server, execute, workflow_id, target):
    await execute(workflow_id=workflow_id)

    assert server.requests[0].target == target


@pytest.mark.parametrize("workflow_id", ["", " ", ".", "..", "../x", "a/../../x", "..\\x"])
async def test_a_workflow_id_cannot_leave_its_place(server, execute, workflow_id):
    with pytest.raises(ValueError, match="is not a workflow id"):
        await execute(workflow_id=workflow_id)
    assert server.requests == []


async def test_the_path_below_the_address_is_kept(server):
    service = WorkflowService(
        base_url=f"{server.address}/flows/", execute_path="/v2/{workflow_id}:run?source=rota"
    )

    await service.execute("wf-1", {}, "key")
    assert server.requests[0].target == "/flows/v2/wf-1:run?source=rota"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"idempotency_key": ""}, "idempotency key"),
        ({"idempotency_key": "a\r\nX-Evil: 1"}, "idempotency key"),
        ({"deadline_seconds": 0}, "deadline"),
        ({"body": {"a": float("nan")}}, "JSON"),
    ],
)
async def test_arguments_that_cannot_be_sent_are_refused(server, execute, changes, message):
    with pytest.raises(ValueError, match=message):
        await execute(**changes)
    assert server.requests == []


@pytest.mark.parametrize(
    "fields",
    [
        {"base_url": "ftp://example.com"},
        {"base_url": "example.com"},
        {"base_url": f"https://user:{TOKEN}@example.com"},
        {"base_url": f"https://example.com/?key={TOKEN}"},
        {"token": f"{TOKEN}\n"},
        {"token": f"{TOKEN}ä"},
        {"execute_path": "/api/execute"},
        {"execute_path": "api/{workflow_id}"},
        {"connect_seconds": 0},
        {"read_seconds": -1},
    ],
    ids=str,
)
def test_a_wrong_field_is_refused_without_being_repeated(fields):
    with pytest.raises(ValidationError) as caught:
        WorkflowService(**{"base_url": "https://example.com", **fields})
    assert TOKEN not in str(caught.value)


async def test_the_token_is_seen_by_nobody(server, execute, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    echo = Answer(503, f"I do not know {TOKEN}".encode())
    refusal = Answer(401, ("x" * 250 + TOKEN).encode())
    server.answers = [echo, refusal]

    with pytest.raises(WorkflowRefused) as caught:
        await execute()

    printed = capfd.readouterr()
    service = WorkflowService(base_url=server.address, token=TOKEN)
    seen = [str(caught.value), caplog.text, printed.out, printed.err, repr(service), str(service)]
    assert all(TOKEN not in text for text in seen)
    assert "t0k" not in str(caught.value)
    assert str(caught.value).endswith("x****")


async def test_a_retry_is_logged_with_its_action(server, execute, caplog):
    server.answers = [Answer(503, b"busy"), Answer()]

    await execute()
    [record] = [r for r in caplog.records if hasattr(r, "action")]
    assert record.action == "workflow_service_retry"
    assert record.getMessage() == (
        "The workflow service failed try 1: 503 Told So: busy; trying again in 1.0 s."
    )


def test_errors_survive_pickling():
    # Prefect stores a failed run's exception as its result.
    error = pickle.loads(pickle.dumps(WorkflowRefused("no", 404)))

    assert (str(error), error.status) == ("no", 404)


def test_prefect_keeps_the_token_whole_and_secret():
    service = WorkflowService(base_url="https://example.com", token=TOKEN)

    stored = service.model_dump(mode="json", context={"include_secrets": True})
    assert stored["token"] == TOKEN
    assert WorkflowService.model_json_schema()["secret_fields"] == ["token"]


def test_prefect_finds_the_block_without_being_told():
    finding = (
        "from prefect.blocks.core import Block; "
        "print(Block.get_block_class_from_key('workflow-service').__module__)"
    )
    found = subprocess.run(
        [sys.executable, "-c", finding], check=True, capture_output=True, text=True
    )

    assert found.stdout.strip() == "blocks.workflow_service"
