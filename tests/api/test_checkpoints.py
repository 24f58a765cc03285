"""Checkpoints: what duties keep for their next run."""

import asyncio
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from blocks.outgoing import path_part


@pytest.fixture
def checkpoints(acme: str) -> str:
    """The path of the tenant's checkpoints."""
    return f"/tenants/{acme}/checkpoints"


@pytest.mark.parametrize(
    "value",
    [
        {"etag": 'W/"5e0a"', "pages": [1, 2.5, None, True, "é"]},
        [],
        "text",
        0,
        -(2**63) + 1,
        False,
        None,
    ],
)
async def test_any_json_is_kept_as_it_is(api: Any, checkpoints: str, value: Any) -> None:
    written = await api.put(f"{checkpoints}/position", "worker", json={"value": value})
    assert written.status_code == 200
    found = (await api.get(f"{checkpoints}/position", "worker")).json()
    assert found == written.json()
    assert (found["key"], found["value"]) == ("position", value)
    assert type(found["value"]) is type(value)


async def test_what_is_written_again_takes_the_place_of_the_first(
    api: Any, checkpoints: str
) -> None:
    first = (await api.put(f"{checkpoints}/a", json={"value": {"a": 1, "b": 2}})).json()
    second = (await api.put(f"{checkpoints}/a", json={"value": {"a": 3}})).json()
    assert second["value"] == {"a": 3}
    assert second["updated_at"] > first["updated_at"]


@pytest.mark.parametrize("key", ["github:acme", "rag/0190a3c2-7d4e", "a/b/c", "a:b.c_d-e", "9"])
async def test_a_key_may_hold_slashes_quoted_or_not(api: Any, checkpoints: str, key: str) -> None:
    for path in (path_part(key, "a key"), quote(key, safe="/")):
        assert (await api.put(f"{checkpoints}/{path}", json={"value": path})).status_code == 200
        found = (await api.get(f"{checkpoints}/{quote(key, safe='')}")).json()
        assert (found["key"], found["value"]) == (key, path)
    assert (await api.delete(f"{checkpoints}/{quote(key, safe='')}")).status_code == 204


@pytest.mark.parametrize("key", ["Upper", "-a", "a b", "a%00", "é", "a" * 201, "/a"])
async def test_a_key_that_does_not_fit_is_refused(api: Any, checkpoints: str, key: str) -> None:
    for answer in (
        await api.get(f"{checkpoints}/{key}"),
        await api.put(f"{checkpoints}/{key}", json={"value": 1}),
        await api.delete(f"{checkpoints}/{key}"),
    ):
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == "key"


async def test_the_largest_value_is_taken_and_a_larger_one_is_not(
    api: Any, checkpoints: str
) -> None:
    fits = "x" * (512 * 1024 - 2)
    assert (await api.put(f"{checkpoints}/a", json={"value": fits})).status_code == 200
    refused = await api.put(f"{checkpoints}/a", json={"value": f"{fits}x"})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "value"
    assert "512 KiB" in refused.json()["detail"]
    assert (await api.get(f"{checkpoints}/a")).json()["value"] == fits
    many = [[]] * 80_000  # the database writes a space after each comma
    assert (await api.put(f"{checkpoints}/a", json={"value": many})).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"value": 9223372036854775808}',
        b'{"value": 1e400}',
        b'{"value": NaN}',
        b'{"value": "\\u0000"}',
        b'{"value": {"a\\u0000": 1}}',
        b'{"value": "\\ud800"}',
        b'{"value": ' + b"[" * 65 + b"1" + b"]" * 65 + b"}",
        b'{"value": 1, "more": 2}',
        b"{}",
    ],
)
async def test_what_cannot_be_kept_is_refused(api: Any, checkpoints: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    refused = await api.put(f"{checkpoints}/a", content=body, headers=headers)
    assert refused.status_code == 422
    assert (await api.get(f"{checkpoints}/a")).status_code == 404


async def test_what_is_nested_as_deep_as_can_be_is_kept(api: Any, checkpoints: str) -> None:
    value: Any = 1
    for _ in range(64):
        value = [value]
    assert (await api.put(f"{checkpoints}/a", json={"value": value})).json()["value"] == value


async def test_a_checkpoint_that_is_deleted_is_not_there(api: Any, checkpoints: str) -> None:
    await api.put(f"{checkpoints}/a", json={"value": 1})
    assert (await api.delete(f"{checkpoints}/a", "worker")).status_code == 204
    for answer in (await api.get(f"{checkpoints}/a"), await api.delete(f"{checkpoints}/a")):
        assert answer.status_code == 404
        assert answer.json()["detail"] == "There is no checkpoint 'a'."


async def test_writers_at_once_leave_one_of_their_values(api: Any, checkpoints: str) -> None:
    written = await asyncio.gather(
        *(api.put(f"{checkpoints}/a", json={"value": number}) for number in range(10))
    )
    assert {one.status_code for one in written} == {200}
    assert (await api.get(f"{checkpoints}/a")).json()["value"] in range(10)


async def test_of_writers_that_have_read_the_same_one_replaces_it(
    api: Any, checkpoints: str
) -> None:
    read = (await api.put(f"{checkpoints}/a", json={"value": "read"})).json()["updated_at"]
    written = await asyncio.gather(
        *(
            api.put(f"{checkpoints}/a", json={"value": number, "replaces": read})
            for number in range(10)
        )
    )
    assert sorted(one.status_code for one in written) == [200] + [409] * 9
    [winner] = [number for number, one in enumerate(written) if one.status_code == 200]
    found = (await api.get(f"{checkpoints}/a")).json()
    assert found["value"] == winner
    assert found == written[winner].json()


async def test_what_has_been_deleted_is_not_replaced(api: Any, checkpoints: str) -> None:
    read = (await api.put(f"{checkpoints}/a", json={"value": 1})).json()["updated_at"]
    await api.delete(f"{checkpoints}/a")
    answer = await api.put(f"{checkpoints}/a", json={"value": 2, "replaces": read})
    assert answer.status_code == 409
    assert "read it again" in answer.json()["detail"]
    assert (await api.get(f"{checkpoints}/a")).status_code == 404


async def test_each_tenant_has_checkpoints_of_its_own(
    api: Any, acme: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("insert into tenants (slug) values ('other')")
    for tenant in (acme, "other"):
        await api.put(f"/tenants/{tenant}/checkpoints/a", json={"value": tenant})
    for tenant in (acme, "other"):
        found = (await api.get(f"/tenants/{tenant}/checkpoints/a")).json()
        assert found["value"] == tenant


async def test_a_tenant_that_is_not_there_has_no_checkpoints(api: Any) -> None:
    assert (await api.get("/tenants/nobody/checkpoints/a")).status_code == 404
    answer = await api.put("/tenants/nobody/checkpoints/a", json={"value": 1})
    assert answer.status_code == 404
    assert answer.json()["detail"] == "There is no tenant 'nobody'."


async def test_a_viewer_reads_checkpoints_and_does_not_write_them(
    api: Any, checkpoints: str
) -> None:
    await api.put(f"{checkpoints}/a", json={"value": 1})
    assert (await api.get(f"{checkpoints}/a", "viewer")).status_code == 200
    assert (await api.put(f"{checkpoints}/a", "viewer", json={"value": 2})).status_code == 403
    assert (await api.delete(f"{checkpoints}/a", "viewer")).status_code == 403
