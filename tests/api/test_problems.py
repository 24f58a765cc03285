"""What is refused, and how that is said: always as a problem, never as a failure of Rota's."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import asyncpg
import httpx
import pytest

from store.settings import Settings
from tests.api.test_isolation import NAMES

NIGHTLY = {"duty": "workflow_run", "parameters": {"workflow_id": "x"}, "cron": "0 3 * * *"}

NUL, HALF = "a\0b", "a\ud800b"


def _is_problem(answer: httpx.Response, status: int) -> Mapping[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    found: Mapping[str, Any] = answer.json()
    assert found.keys() == {"type", "title", "status", "detail", "instance", "errors"}
    assert found["status"] == status
    assert found["instance"] == answer.request.url.path
    return found


# -- addresses


async def test_an_address_where_nothing_is_says_where_to_look(api: Any) -> None:
    nowhere = [await api.http.get(path) for path in ("/", "/api", "/api/v1", "/docs", "/redoc")]
    for answer in [*nowhere, await api.get("/nothing"), await api.get("/")]:
        found = _is_problem(answer, 404)
        assert "/api/v1/openapi.json" in found["detail"]
    _is_problem(await api.get("/nothing", None), 401)


async def test_no_body_is_read_of_whoever_holds_no_token(api: Any) -> None:
    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("it is read")
        yield b""

    _is_problem(await api.post("/tenants", None, content=body()), 401)


async def test_a_body_about_one_thing_is_small_and_faults_are_told_up_to_a_number(
    api: Any, definitions: str
) -> None:
    keys = {f"key-{number}": 1 for number in range(20_000)}
    found = _is_problem(await api.post(definitions, json=keys), 422)
    assert len(found["errors"]) <= 51
    keys = {f"key-{number}": "x" * 50 for number in range(20_000)}
    _is_problem(await api.post(definitions, json=keys), 413)


async def test_a_slash_too_many_is_another_address(api: Any) -> None:
    _is_problem(await api.get("/tenants/"), 404)


async def test_a_method_that_an_address_does_not_take_is_refused(api: Any) -> None:
    for method in ("PUT", "PATCH", "DELETE", "TRACE", "BREW"):
        answer = await api.call(method, "/tenants")
        _is_problem(answer, 405)
        assert answer.headers["Allow"]


# -- fields


async def test_each_field_that_does_not_fit_is_named_with_its_value_and_a_remedy(
    api: Any, definitions: str
) -> None:
    body = {**NIGHTLY, "name": "Nightly", "retries": "3", "inputs": [{"nam": "x"}], "colour": 1}
    found = _is_problem(await api.post(definitions, json=body), 422)
    said = {one["field"]: one["detail"] for one in found["errors"]}
    assert said.keys() == {"name", "retries", "inputs.0.nam", "inputs.0.name", "colour"}
    assert "'Nightly'" in said["name"]
    assert "'3'" in said["retries"]


async def test_a_field_s_own_rule_is_told_in_full(api: Any, definitions: str) -> None:
    body = {**NIGHTLY, "name": "x", "cron": "99 * * * *"}
    found = _is_problem(await api.post(definitions, json=body), 422)
    assert [one["field"] for one in found["errors"]] == ["cron"]
    assert (
        found["errors"][0]["detail"] == "'99 * * * *' has 99 as its minute; minutes go from 0 to 59"
    )


async def test_a_parameter_of_the_address_is_named_too(api: Any) -> None:
    found = _is_problem(await api.get("/tenants", params={"page_size": "0"}), 422)
    assert [one["field"] for one in found["errors"]] == ["page_size"]


async def test_a_long_value_is_not_repeated(api: Any, definitions: str) -> None:
    answer = await api.post(definitions, json={**NIGHTLY, "name": "x" * 100_000})
    _is_problem(answer, 422)
    assert len(answer.content) < 2000


# -- bodies


def _taking_json(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for media in operation.get("requestBody", {}).get("content", {}):
                yield method, path.removeprefix("/api/v1"), media


MALFORMED = (
    b'{"a": ',
    b'{"a": "\xff"}',
    '{"a": 1}'.encode("utf-16"),
    b"[]",
    b'"a"',
    b"1",
    b'{"a": NaN}',
    b'{"a": 1e999}',
    b'{"a": ' + b"9" * 5000 + b"}",
    b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"parameters": {"input": ' + b"[" * 70 + b"1" + b"]" * 70 + b"}}",
    b'{"parameters": {"input": ' + b"[" * 400 + b"]" * 400 + b"}}",
    b'{"parameters": {"input": ' + b"[" * 940 + b"]" * 940 + b"}}",
)


OPTIONAL = ("/suspend", "/pause", "/run", "/apply")
"""Where a body may be left out."""


async def test_a_body_that_is_malformed_is_refused_by_every_route(api: Any, acme: str) -> None:
    for method, path, media in _taking_json(api.contract.document):
        where = path.format(tenant=acme, **NAMES)
        for body in MALFORMED:
            if path.endswith(OPTIONAL) and body in ("", "null", b"", b"null"):
                continue  # neither says anything, and nothing has to be said
            answer = await _sent(api, method, where, body, media)
            assert 400 <= answer.status_code < 500, _said(answer)
            _is_problem(answer, answer.status_code)


async def test_a_body_of_another_type_is_refused_by_every_route(api: Any, acme: str) -> None:
    for method, path, _ in _taking_json(api.contract.document):
        where = path.format(tenant=acme, **NAMES)
        for media in ("text/plain", "application/xml", "multipart/form-data", "nonsense", ""):
            answer = await _sent(api, method, where, b"{}", media)
            assert 400 <= answer.status_code < 500, _said(answer)
            _is_problem(answer, answer.status_code)


async def _sent(
    api: Any, method: str, path: str, content: str | bytes, media: str = "application/json"
) -> httpx.Response:
    headers = {"Content-Type": media}
    found: httpx.Response = await api.call(method.upper(), path, content=content, headers=headers)
    return found


def _said(answer: httpx.Response) -> str:
    sent = answer.request
    return f"{sent.method} {sent.url} {sent.content[:200]!r}: {answer.status_code} {answer.text}"


# -- texts that cannot be stored


def _schemas(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yields each route that takes an object, with the fields that it may have."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            if schema := content.get("application/json", {}).get("schema"):
                named = schema.get("$ref", "").rpartition("/")[2]
                whole = document["components"]["schemas"][named] if named else schema
                yield method, path.removeprefix("/api/v1"), whole.get("properties", {})


BESIDE = {"/tenants/{tenant}/definitions": {"name": "x", **NIGHTLY}}


@pytest.mark.parametrize("text", [NUL, HALF], ids=["NUL", "half a surrogate pair"])
async def test_a_text_that_no_database_takes_is_refused_in_every_field_of_every_body(
    api: Any, acme: str, a_definition: Any, text: str
) -> None:
    await api.post(f"/tenants/{acme}/definitions", json=a_definition())
    for method, path, fields in _schemas(api.contract.document):
        where = path.format(tenant=acme, **NAMES)
        beside = BESIDE.get(path, NIGHTLY if method == "put" else {})
        bodies = [
            {**beside, field: value}
            for field in fields
            for value in (text, [text], {text: 1}, {"a": text}, [{"name": text}])
        ]
        for body in [*bodies, {**beside, text: 1}]:
            answer = await _sent(api, method, where, json.dumps(body))
            assert answer.status_code == 422, _said(answer)
            _is_problem(answer, 422)


async def test_any_text_in_an_address_is_answered(api: Any, acme: str, a_definition: Any) -> None:
    await api.post(f"/tenants/{acme}/definitions", json=a_definition())
    for path, operations in api.contract.document["paths"].items():
        for method, operation in operations.items():
            for parameter in operation.get("parameters", ()):
                for text in ("a%00b", "%ED%A0%80", "%FF", "%F0%9F%98%80", "%0A", "%25", "_"):
                    own = {**NAMES, "tenant": acme}
                    query = ""
                    if parameter["in"] == "path":
                        own[parameter["name"]] = text
                    elif parameter["in"] == "query":
                        query = f"?{parameter['name']}={text}"
                    body = {} if "requestBody" in operation else None
                    address = path.format(**own) + query
                    answer = await api.call(method.upper(), address, json=body)
                    # It is not to be found, or does not fit, or finds nothing; no failure.
                    assert answer.status_code in (200, 204, 403, 404, 409, 422), _said(answer)


async def test_any_text_in_a_header_is_answered(
    api: Any, definitions: str, a_definition: Any
) -> None:
    for name in ("If-Match", "If-None-Match", "Idempotency-Key", "Authorization"):
        for value in (b"\xff\xfe", b"", b"*", b'"', b"W/", b",,,", b"a" * 5000):
            for method, where, body in (
                ("PUT", "nightly", NIGHTLY),
                ("PATCH", "nightly", {"title": "x"}),
                ("POST", "nightly/pause", {}),
                ("DELETE", "nightly", None),
            ):
                answer = await api.call(
                    method, f"{definitions}/{where}", json=body, headers={name: value}
                )
                assert answer.status_code < 500, _said(answer)


INSTANTS = (
    "0001-01-01T00:00:00+23:59",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59-23:59",
    "1",
    "9" * 20,
    "2026-02-30T00:00:00Z",
    "2026-03-01T08:00:00",
)


async def test_any_instant_is_answered(
    api: Any, definitions: str, a_definition: Any, watch: Any
) -> None:
    await api.post(definitions, json=a_definition())
    await watch.settle()
    for at in INSTANTS:
        for path in ("/audit", f"{definitions}/nightly/runs"):
            for field in ("since", "until"):
                _is_problem(await api.get(path, params={field: at}), 422)
        for path, field, beside in (
            (f"{definitions}/nightly/pause", "until", {}),
            (f"{definitions}/nightly/run", "at", {}),
            ("/preview", "since", {"cron": "0 3 * * *"}),
            ("/preview", "run_at", {}),
            ("/preview", "anchor_at", {"interval_seconds": 60}),
            (definitions, "starts_at", {"name": "x", **NIGHTLY}),
            (definitions, "run_at", {"name": "x", "duty": "workflow_run"}),
        ):
            found = _is_problem(await api.post(path, json={**beside, field: at}), 422)
            assert [one["field"] for one in found["errors"]] == [field]


# -- cursors

CURSORS = (
    b"",
    b"x",
    b"[]",
    b"{}",
    b"[1]",
    b"[-1]",
    b"[true]",
    b"[null]",
    b'["a\\u0000b"]',
    b'["a", "b"]',
    b"[9223372036854775808]",
    b"[1e400]",
    b'["0001-01-01T00:00:00+23:59", "0190a3c2-7d4e-7b6a-9f00-3a5c1d2e4f60"]',
    b'["9999-12-31T23:59:59-23:59", "0190a3c2-7d4e-7b6a-9f00-3a5c1d2e4f60"]',
    b'["2026-03-01T08:00:00", "0190a3c2-7d4e-7b6a-9f00-3a5c1d2e4f60"]',
    b'["2026-03-01T08:00:00Z", "x"]',
    b"[" * 1000,
)


async def test_a_cursor_that_no_list_has_given_is_refused_or_finds_nothing(
    api: Any, acme: str, definitions: str, a_definition: Any, watch: Any
) -> None:
    await api.post(definitions, json=a_definition())
    await watch.settle()
    made = [base64.urlsafe_b64encode(one).decode().rstrip("=") for one in CURSORS]
    for path, query in (
        ("/tenants", {}),
        (definitions, {}),
        (definitions, {"order": "created"}),
        (f"{definitions}/nightly/runs", {}),
        (f"/tenants/{acme}/latest-runs", {}),
        ("/audit", {}),
    ):
        for cursor in (*made, "\0", "\u00e4", "!", "=", "a" * 2001):
            for where in ("after", "before"):
                answer = await api.get(path, params={**query, where: cursor})
                assert answer.status_code in (200, 422), _said(answer)


# -- size


@pytest.fixture
async def small(build: Any) -> Any:
    """The application, where a body has 2,000 bytes at most."""
    return await build(Settings(api_body_bytes=2000))


async def _in_chunks(size: int) -> AsyncIterator[bytes]:
    yield b'{"title": "'
    for _ in range(size // 100):
        yield b"x" * 100
    yield b'"}'


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "in chunks"])
async def test_a_body_that_is_too_large_is_refused(small: Any, acme: str, chunked: bool) -> None:
    content = _in_chunks(3000) if chunked else b'{"title": "' + b"x" * 3000 + b'"}'
    headers = {"Content-Type": "application/json"}
    for method, path in (("PUT", f"/tenants/{acme}"), ("PUT", f"/tenants/{acme}/definitions")):
        content = _in_chunks(3000) if chunked else b'{"title": "' + b"x" * 3000 + b'"}'
        answer = await small.call(method, path, content=content, headers=headers)
        assert ("content-length" in answer.request.headers) != chunked
        found = _is_problem(answer, 413)
        assert "2000 bytes" in found["detail"]


async def test_a_body_just_small_enough_is_taken(small: Any, acme: str) -> None:
    body = b'{"title": "Acme"}'
    for size, expected in ((2000, 200), (2001, 413)):
        answer = await small.put(
            f"/tenants/{acme}",
            content=body + b" " * (size - len(body)),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == expected


async def test_a_length_that_lies_does_not_get_more_in(small: Any, acme: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Length": "10"}
    answer = await small.put(f"/tenants/{acme}", content=_in_chunks(3000), headers=headers)
    _is_problem(answer, 413)


# -- time


async def test_what_takes_too_long_is_given_up_and_writes_nothing(
    build: Any, acme: str, sql: asyncpg.Connection, database_url: str
) -> None:
    api = await build(Settings(api_seconds=0.3))
    await api.token("admin")
    async with sql.transaction():
        await sql.execute("lock table audit in exclusive mode")
        answer = await api.put(f"/tenants/{acme}", json={"title": "Late"})
        found = _is_problem(answer, 504)
    assert "longer than 0.3 s" in found["detail"] or "longer than 0 s" in found["detail"]
    assert await sql.fetchval("select title from tenants where slug = $1", acme) is None
    assert (await api.put(f"/tenants/{acme}", json={"title": "In time"})).status_code == 200


async def test_an_apply_may_take_longer(
    build: Any, acme: str, sql: asyncpg.Connection, watch: Any
) -> None:
    api = await build(Settings(api_seconds=0.3))
    await api.token("admin")
    async with sql.transaction():
        await sql.execute("lock table definitions in access exclusive mode")
        applying = asyncio.ensure_future(api.post("/apply", json={}))
        done, _ = await asyncio.wait([applying], timeout=0.6)
        assert not done
    assert (await applying).status_code == 200


# -- browsers


PREFLIGHT = {
    "Origin": "https://console.example.com",
    "Access-Control-Request-Method": "PUT",
    "Access-Control-Request-Headers": "authorization, if-match, if-none-match, content-type",
}


async def test_no_other_origin_may_call_unless_it_is_set(api: Any) -> None:
    answer = await api.http.options("/api/v1/tenants", headers=PREFLIGHT)
    assert answer.status_code == 401
    answer = await api.get("/tenants", headers={"Origin": PREFLIGHT["Origin"]})
    assert [name for name in answer.headers if name.startswith("access-control")] == []


async def test_an_origin_that_is_set_may_call_and_read_what_it_needs(build: Any, acme: str) -> None:
    api = await build(Settings(api_origins=[PREFLIGHT["Origin"]], api_body_bytes=2000))
    answer = await api.http.options("/api/v1/tenants", headers=PREFLIGHT)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Access-Control-Allow-Origin"] == PREFLIGHT["Origin"]
    origin = {"Origin": PREFLIGHT["Origin"]}
    good = await api.get(f"/tenants/{acme}", headers=origin)
    large = await api.put(f"/tenants/{acme}", json={"title": "x" * 3000}, headers=origin)
    refused = await api.get("/nothing", headers=origin)
    for answer in (good, large, refused):
        assert answer.headers["Access-Control-Allow-Origin"] == PREFLIGHT["Origin"]
        assert "ETag" in answer.headers["Access-Control-Expose-Headers"]
    other = await api.get("/tenants", headers={"Origin": "https://elsewhere.example.com"})
    assert "Access-Control-Allow-Origin" not in other.headers


# -- what it says of failures of its own


async def test_a_failure_of_rota_s_own_is_a_problem_that_tells_nothing(
    api: Any, acme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from store import tenants

    async def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the secret is swordfish")

    await api.token("admin")
    monkeypatch.setattr(tenants, "find", fail)
    transport = httpx.ASGITransport(api.app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {await api.token('admin')}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://rota") as http:
        answer = await http.get(f"/api/v1/tenants/{acme}", headers=headers)
    found = _is_problem(answer, 500)
    assert "swordfish" not in answer.text
    assert re.search("log", found["detail"])
