from datetime import UTC, datetime

import httpx
import pytest

from examples.workflow_service import Executions, Order, create_app

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
EXECUTE = "/api/workflow/wf-1/execute"


def _client(token: str | None = None) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(token))
    return httpx.AsyncClient(transport=transport, base_url="http://example")


async def test_one_key_is_one_execution():
    async with _client() as client:
        answers = [
            await client.post(EXECUTE, json={"input": {"a": 1}}, headers={"Idempotency-Key": key})
            for key in ("k-1", "k-2", "k-1")
        ]
        listed = (await client.get("/api/executions")).json()

    assert [answer.status_code for answer in answers] == [202, 202, 200]
    first, other, again = (answer.json() for answer in answers)
    assert first == again != other
    assert first["status"] == "running"
    assert [(e["key"], e["tries"]) for e in listed] == [("k-2", 1), ("k-1", 2)]
    assert listed[1]["execution_id"] == first["executionId"]
    assert (listed[1]["workflow_id"], listed[1]["input"]) == ("wf-1", {"a": 1})
    assert datetime.fromisoformat(listed[1]["received_at"]).tzinfo is not None


@pytest.mark.parametrize(
    ("document", "headers"),
    [
        ({"input": {}}, {}),
        ({}, {"Idempotency-Key": "k-1"}),
        ({"input": "a"}, {"Idempotency-Key": "k-1"}),
        ([], {"Idempotency-Key": "k-1"}),
    ],
)
async def test_an_incomplete_order_is_refused(document, headers):
    async with _client() as client:
        answer = await client.post(EXECUTE, json=document, headers=headers)

    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("authorization", "status"),
    [("Bearer right", 202), ("Bearer wrong", 401), ("right", 401), (None, 401)],
)
async def test_the_token_opens_the_service(authorization, status):
    headers = {"Idempotency-Key": "k-1"}
    if authorization:
        headers["Authorization"] = authorization
    async with _client("right") as client:
        started = await client.post(EXECUTE, json={"input": {}}, headers=headers)
        listed = await client.get("/api/executions", headers=headers)
        health = await client.get("/healthz")

    assert started.status_code == status
    assert listed.is_success == (status == 202)
    assert health.status_code == 200


async def test_an_id_with_a_slash_arrives_whole():
    async with _client() as client:
        await client.post(
            "/api/workflow/a%2Fb/execute", json={"input": {}}, headers={"Idempotency-Key": "k"}
        )
        [execution] = (await client.get("/api/executions")).json()

    assert execution["workflow_id"] == "a/b"


def test_the_oldest_executions_are_forgotten():
    executions = Executions(limit=2)
    for key in ("k-1", "k-2", "k-3"):
        executions.start(key, "wf-1", Order(input={}), at=NOON)

    assert [e.key for e in executions.latest(10)] == ["k-3", "k-2"]
    assert [e.key for e in executions.latest(1)] == ["k-3"]
