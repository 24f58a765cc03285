"""What is left of a write whose API is killed before it has answered."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
import httpx
import pytest

pytestmark = pytest.mark.acceptance

GATE = 4711
"""The advisory lock at which a commit waits."""

Call = Callable[[], Awaitable[httpx.Response]]


@pytest.fixture
async def gate(sql: asyncpg.Connection) -> Any:
    """Makes every commit that writes an audit row wait for a lock, and gives what holds it."""
    await sql.execute(
        "create function wait() returns trigger language plpgsql as "
        f"$$ begin perform pg_advisory_xact_lock_shared({GATE}); return null; end $$"
    )
    # Deferred to the commit: everything is written by then, and nobody is told yet.
    await sql.execute(
        "create constraint trigger wait after insert on audit deferrable initially deferred "
        "for each row execute function wait()"
    )

    @asynccontextmanager
    async def shut() -> Any:
        await sql.execute(f"select pg_advisory_lock({GATE})")
        try:
            yield
        finally:
            await sql.execute(f"select pg_advisory_unlock({GATE})")

    return shut


@contextmanager
def _no_answer() -> Iterator[None]:
    with pytest.raises(httpx.TransportError):
        yield


async def _nobody_is_at_it(sql: asyncpg.Connection) -> None:
    """Waits until the sessions that the API left behind are gone."""
    question = (
        "select count(*) from pg_stat_activity where datname = current_database() "
        "and state <> 'idle' and pid <> pg_backend_pid()"
    )
    async with asyncio.timeout(30):
        while await sql.fetchval(question):  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)


async def _rows(sql: asyncpg.Connection) -> tuple[set[Any], set[Any]]:
    """Returns what definitions there are, and what there would be by the audit alone."""
    rows = await sql.fetch("select id, title, cron from definitions")
    audited: dict[Any, Any] = {}
    for row in await sql.fetch(
        "select operation, coalesce(after, before) ->> 'id' as id, after ->> 'title' as title, "
        "after ->> 'cron' as cron from audit where kind = 'definition' order by audit.id"
    ):
        audited.pop(row["id"], None)
        if row["operation"] != "delete":
            audited[row["id"]] = (row["title"], row["cron"])
    return (
        {(str(row["id"]), row["title"], row["cron"]) for row in rows},
        {(id_, *said) for id_, said in audited.items()},
    )


def _writes(remote: Any, path: str, a_definition: Any) -> dict[str, Call]:
    return {
        "create": lambda: remote.post(path, json=a_definition("new", title="New")),
        "patch": lambda: remote.patch(f"{path}/nightly", json={"title": "Patched"}),
        "delete": lambda: remote.delete(f"{path}/nightly"),
        "bulk": lambda: remote.put(
            f"{path}?prune=true",
            json={"definitions": [a_definition(f"n{number}") for number in range(20)]},
        ),
    }


async def test_a_write_that_was_not_committed_leaves_neither_row_nor_audit(
    served: Any,
    remote: Any,
    definitions: str,
    a_definition: Any,
    sql: asyncpg.Connection,
    blocked: Any,
) -> None:
    await remote.post(definitions, json=a_definition())
    before = await _rows(sql)
    for name, write in _writes(remote, definitions, a_definition).items():
        async with sql.transaction():
            await sql.execute("lock table audit in exclusive mode")
            writing = asyncio.ensure_future(write())
            await blocked()  # the row is written, and its row of the audit waits
            served.kill()
            with _no_answer():
                await writing
        await _nobody_is_at_it(sql)
        assert await _rows(sql) == before, name
        served.start_again()


async def test_a_write_that_was_committed_leaves_both_row_and_audit(
    served: Any,
    remote: Any,
    definitions: str,
    a_definition: Any,
    sql: asyncpg.Connection,
    gate: Any,
    blocked: Any,
) -> None:
    await remote.post(definitions, json=a_definition())
    for name, write in _writes(remote, definitions, a_definition).items():
        before = await sql.fetchval("select max(id) from audit")
        async with gate():
            writing = asyncio.ensure_future(write())
            await blocked()  # the commit is under way
            served.kill()
            with _no_answer():
                await writing
        await _nobody_is_at_it(sql)
        there, audited = await _rows(sql)
        assert there == audited, name
        assert await sql.fetchval("select max(id) from audit") > before, name
        served.start_again()
        await remote.put(f"{definitions}/nightly", json=a_definition())


async def test_who_tries_again_gets_to_the_right_state_whatever_became_of_the_first_try(
    served: Any,
    remote: Any,
    definitions: str,
    a_definition: Any,
    sql: asyncpg.Connection,
    gate: Any,
    blocked: Any,
) -> None:
    path = f"{definitions}/nightly"
    await remote.post(definitions, json=a_definition())
    for turn, committed in enumerate((True, False)):
        etag = (await remote.get(path)).headers["ETag"]
        body = a_definition(title=f"Title {turn}")
        match = {"If-Match": etag}
        async with gate():
            writing = asyncio.ensure_future(remote.put(path, json=body, headers=match))
            await blocked()
            served.kill()
            with _no_answer():
                await writing
            if not committed:
                await sql.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where "
                    "datname = current_database() and wait_event = 'advisory'"
                )
                await _nobody_is_at_it(sql)
        await _nobody_is_at_it(sql)
        served.start_again()
        # With the ETag of before, a second try tells whether the first has been heard.
        again = await remote.put(path, json=body, headers=match)
        assert again.status_code == (412 if committed else 200)
        # Without one, it leads to the same state, and writes only what is missing.
        last = await remote.put(path, json=body)
        assert last.status_code == 200
        found = last.json()
        assert found["title"] == f"Title {turn}"
        assert found["revision"] == turn + 2
    there, audited = await _rows(sql)
    assert there == audited
    operations = await sql.fetch("select operation from audit where kind = 'definition'")
    assert [row["operation"] for row in operations] == ["insert", "update", "update"]


async def test_whatever_was_answered_is_there_and_whatever_is_there_was_audited(
    served: Any, remote: Any, definitions: str, a_definition: Any, sql: asyncpg.Connection
) -> None:
    """Many write at once while the API is killed, again and again."""
    await remote.token("admin")
    for turn in range(4):
        answered: set[str] = set()
        asked = [f"t{turn}-n{number}" for number in range(60)]
        waiting = iter(asked)
        enough = asyncio.Event()

        async def create(
            names: Iterator[str] = waiting,
            done: set[str] = answered,
            enough: asyncio.Event = enough,
        ) -> None:
            for name in names:
                answer = await remote.post(definitions, json=a_definition(name))
                assert answer.status_code == 201
                done.add(name)
                if len(done) >= 10:
                    enough.set()

        writers = [asyncio.ensure_future(create()) for _ in range(6)]
        async with asyncio.timeout(60):
            await enough.wait()
        served.kill()
        ended = await asyncio.gather(*writers, return_exceptions=True)
        assert all(isinstance(one, httpx.TransportError) for one in ended if one is not None)
        await _nobody_is_at_it(sql)
        there, audited = await _rows(sql)
        assert there == audited
        names = {row["name"] for row in await sql.fetch("select name from definitions")}
        assert answered <= names
        served.start_again()
        # Each is asked for again, with what makes that harmless.
        for name in asked:
            answer = await remote.put(
                f"{definitions}/{name}", json=a_definition(name), headers={"If-None-Match": "*"}
            )
            assert answer.status_code == (412 if name in names else 201)
    there, audited = await _rows(sql)
    assert there == audited
    assert len(there) == 240
