"""What happens while the database or Prefect is away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from sqlalchemy.engine import make_url

from api import access, control
from deployments.gateway import Gateway
from store import database
from store.settings import Settings
from tests.api import test_isolation

BODIES: dict[str, Any] = {
    **test_isolation.BODIES,
    "PUT /tenants/{tenant}/definitions": {"definitions": []},
    "POST /tenants/{tenant}/definitions": {"name": "another", "duty": "workflow_run"},
    "PUT /tenants/{tenant}/definitions/{name}": {"duty": "workflow_run"},
    "POST /tenants": {"slug": "initech"},
}

# These need no database at all.
WITHOUT = {"POST /preview", "GET /duties", "GET /healthz", "GET /version"}

WORKFLOW = {"workflow_id": "x"}


class Wire:
    """What lies between the API and PostgreSQL, and can be cut."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._open: set[asyncio.StreamWriter] = set()
        self.accepted = 0
        self.cut = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut:
            writer.close()
            return
        self.accepted += 1
        beyond_reader, beyond = await asyncio.open_unix_connection(self._target)
        self._open |= {writer, beyond}
        await asyncio.gather(self._pump(reader, beyond), self._pump(beyond_reader, writer))
        self._open -= {writer, beyond}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    def sever(self) -> None:
        """Breaks every connection that there is, and lets no new one through."""
        self.cut = True
        for writer in list(self._open):
            writer.transport.abort()

    def mend(self) -> None:
        self.cut = False


@pytest.fixture
async def wire(database_url: str, short_home: Path) -> AsyncIterator[tuple[Wire, Any]]:
    """Yields a wire to the test's database, and an engine that goes through it."""
    address = make_url(database_url)
    wire = Wire(f"{address.query['host']}/.s.PGSQL.5432")
    server = await asyncio.start_unix_server(wire.serve, short_home / ".s.PGSQL.5432")
    through = address.update_query_dict({"host": str(short_home)})
    async with database.opened(through, quick=True) as engine:  # as `rota serve` has it
        yield wire, engine
    wire.sever()
    server.close()


# -- the database


async def test_many_at_once_share_the_connections_that_there_are(
    build: Any, acme: str, wire: tuple[Wire, Any]
) -> None:
    line, engine = wire
    api = await build(engine=engine)
    body = {"duty": "workflow_run", "parameters": WORKFLOW}
    for _ in range(3):
        answers = await asyncio.gather(
            *(api.get(f"/tenants/{acme}/definitions") for _ in range(60)),
            *(api.put(f"/tenants/{acme}/definitions/duty-{n}", json=body) for n in range(60)),
        )
        assert {answer.status_code for answer in answers} <= {200, 201}
    assert line.accepted <= 20


async def test_every_route_says_so_while_the_database_is_away_and_goes_on_afterwards(
    build: Any,
    routes: list[Any],
    acme: str,
    wire: tuple[Wire, Any],
    monkeypatch: pytest.MonkeyPatch,
    subtests: Any,
) -> None:
    monkeypatch.setattr(access, "KNOWN_SECONDS", 3600.0)
    line, engine = wire
    api = await build(engine=engine)
    assert (await api.get("/duties")).status_code == 200  # the token is known now
    line.sever()
    for route in routes:
        with subtests.test(str(route)):
            path = route.path.format(tenant=acme, **test_isolation.NAMES)
            body = BODIES.get(str(route), {}) if route.method != "GET" else None
            query = test_isolation.QUERIES.get(str(route))
            answer = await api.call(route.method, path, json=body, params=query)
            if str(route) in WITHOUT:
                assert answer.status_code < 500
                continue
            assert answer.status_code == 503
            if str(route) != "GET /readyz":
                assert answer.headers["Retry-After"] == "5"
                assert answer.json()["detail"] == (
                    "The definitions database does not answer. Read again what was to be written, "
                    "if anything."
                )
    line.mend()
    assert (await api.get(f"/tenants/{acme}")).status_code == 200


async def test_after_a_restart_of_the_database_no_more_than_one_call_is_refused(
    build: Any, acme: str, wire: tuple[Wire, Any]
) -> None:
    line, engine = wire
    api = await build(engine=engine)
    await api.token("admin")
    await asyncio.gather(*(api.get(f"/tenants/{acme}") for _ in range(5)))
    line.sever()
    line.mend()
    first, *others = [(await api.get(f"/tenants/{acme}")).status_code for _ in range(6)]
    assert first in (200, 503)
    assert others == [200] * 5


async def test_a_token_that_is_not_known_is_not_refused_while_the_database_is_away(
    build: Any, wire: tuple[Wire, Any]
) -> None:
    line, engine = wire
    api = await build(engine=engine)
    await api.token("viewer")
    line.sever()
    answer = await api.get("/duties", "viewer")
    assert answer.status_code == 503  # 401 would tell its holder to throw it away
    line.mend()
    assert (await api.get("/duties", "viewer")).status_code == 200


async def test_a_connection_that_breaks_during_a_write_is_told_and_nothing_is_written(
    build: Any, acme: str, wire: tuple[Wire, Any], sql: asyncpg.Connection, blocked: Any
) -> None:
    line, engine = wire
    api = await build(engine=engine)
    await api.token("admin")
    async with sql.transaction():
        await sql.execute("lock table audit in exclusive mode")
        writing = asyncio.ensure_future(api.put(f"/tenants/{acme}", json={"title": "Late"}))
        await blocked()
        line.sever()
        assert (await writing).status_code == 503
    assert await sql.fetchval("select title from tenants where slug = $1", acme) is None


async def test_readiness_says_what_is_missing_and_nothing_of_hosts_or_users(
    build: Any, wire: tuple[Wire, Any], sql: asyncpg.Connection
) -> None:
    line, engine = wire
    api = await build(engine=engine)
    assert await _checks(api, 503) == {
        "database": True,
        "migrations": True,
        "prefect": True,
        "leader": False,
    }
    await sql.execute("insert into marks (name) values ('watch')")
    assert set((await _checks(api, 200)).values()) == {True}
    await sql.execute("update marks set at = now() - interval '1 hour' where name = 'watch'")
    assert [name for name, holds in (await _checks(api, 503)).items() if not holds] == ["leader"]
    await sql.execute("update marks set at = now() where name = 'watch'")
    await sql.execute("update alembic_version set version_num = '0001'")
    found = await _checks(api, 503)
    assert [name for name, holds in found.items() if not holds] == ["migrations"]
    line.sever()
    answer = await api.get("/readyz", None)
    assert answer.status_code == 503
    assert "PGSQL" not in answer.text
    assert "postgres" not in answer.text
    assert (await api.get("/healthz", None)).json() == {"alive": True}


async def _checks(api: Any, status: int) -> dict[str, bool]:
    answer = await api.get("/readyz", None)
    assert answer.status_code == status, answer.text
    said = answer.json()
    assert said["ready"] == (status == 200)
    return {one["name"]: one["holds"] for one in said["checks"]}


async def test_many_probes_take_one_look_together(build: Any, wire: tuple[Wire, Any]) -> None:
    line, engine = wire
    api = await build(engine=engine)
    answers = await asyncio.gather(*(api.get("/readyz", None) for _ in range(30)))
    assert {answer.status_code for answer in answers} == {503}  # nobody leads
    assert line.accepted <= 3


async def test_probes_are_answered_at_the_root_as_well(api: Any) -> None:
    for path in ("/healthz", "/readyz", "/version"):
        assert (await api.http.get(path)).json() == (await api.get(path, None)).json()


# -- Prefect


@asynccontextmanager
async def _nowhere() -> AsyncIterator[Gateway]:
    """Yields a gateway to a Prefect that nobody answers for."""
    nobody = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(updates=nobody):
        async with Gateway.connect() as gateway:
            yield gateway


async def test_definitions_are_written_while_prefect_is_away_and_carried_out_later(
    build: Any,
    acme: str,
    definitions: str,
    a_definition: Any,
    watch: Any,
    gateway: Gateway,
) -> None:
    async with _nowhere() as away:
        api = await build(gateway=away)
        assert (await api.post(definitions, json=a_definition())).status_code == 201
        answer = await api.patch(f"{definitions}/nightly", json={"cron": "0 4 * * *"})
        assert answer.status_code == 200
        body = {"definitions": [a_definition("hourly")]}
        assert (await api.put(definitions, json=body)).json()["created"] == ["hourly"]
        paused = await api.post(f"{definitions}/hourly/pause", json={})
        assert (paused.status_code, paused.json()["state"]) == (200, "paused")
        assert (await api.post(f"/tenants/{acme}/suspend", json={})).status_code == 200
        assert (await api.post(f"/tenants/{acme}/resume")).status_code == 200
        assert (await api.get(f"{definitions}/nightly")).json()["state"] == "waiting"
        assert (await api.get(f"{definitions}/nightly/runs")).json()["items"] == []
    await watch.settle()
    [made] = await gateway.named([f"{acme}.nightly"])
    assert made["schedules"][0]["schedule"]["cron"] == "0 4 * * *"


async def test_what_only_prefect_knows_is_told_to_be_away(
    build: Any, acme: str, definitions: str, a_definition: Any, watch: Any, subtests: Any
) -> None:
    api = await build()
    await api.post(definitions, json=a_definition())
    await watch.settle()
    calls = (
        ("POST", f"{definitions}/nightly/run", {}),
        ("GET", f"{definitions}/nightly/runs", None),
        ("GET", f"{definitions}/nightly/runs?limit=2", None),
        ("GET", f"/tenants/{acme}/latest-runs", None),
        ("GET", "/plan", None),
        ("POST", "/apply", {}),
        ("GET", "/readyz", None),
    )
    async with _nowhere() as away:
        api = await build(gateway=away)
        await api.token("admin")
        # At once, for each is tried a few times.
        *answers, ready = await asyncio.gather(
            *(api.call(method, path, json=body) for method, path, body in calls)
        )
    missing = [one["name"] for one in ready.json()["checks"] if not one["holds"]]
    assert missing == ["prefect", "leader"]
    for (_, path, _), answer in zip(calls, answers, strict=False):
        with subtests.test(path):
            assert answer.status_code == 503
            assert answer.headers["Retry-After"] == "5"
            assert answer.json()["detail"].startswith("Prefect at http://127.0.0.1:9/api")


async def test_a_run_of_a_definition_that_has_no_deployment_says_who_makes_it(
    api: Any, definitions: str, a_definition: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "PATIENCE_SECONDS", 0.0)
    await api.post(definitions, json=a_definition())
    answer = await api.post(f"{definitions}/nightly/run", json={})
    assert answer.status_code == 409
    assert "`rota watch` makes it" in answer.json()["detail"]


async def test_a_run_waits_for_a_deployment_that_is_about_to_be_made(
    api: Any, definitions: str, a_definition: Any, watch: Any
) -> None:
    await api.post(definitions, json=a_definition())
    asked = asyncio.ensure_future(api.post(f"{definitions}/nightly/run", json={}))
    await watch.settle()
    assert (await asked).status_code == 202


async def test_a_run_of_a_deployment_that_somebody_has_deleted_says_who_makes_it_anew(
    api: Any, acme: str, definitions: str, a_definition: Any, watch: Any, gateway: Gateway
) -> None:
    await api.post(definitions, json=a_definition())
    await watch.settle()
    [made] = await gateway.named([f"{acme}.nightly"])
    await gateway.delete(made["id"])
    answer = await api.post(f"{definitions}/nightly/run", json={})
    assert answer.status_code == 409
    assert "`rota watch` makes it anew" in answer.json()["detail"]
    assert (await api.get(f"{definitions}/nightly/runs")).json()["items"] == []


async def test_the_api_starts_while_prefect_is_away(build: Any, acme: str) -> None:
    async with _nowhere() as away:
        api = await build(Settings(), gateway=away)
        assert (await api.get(f"/tenants/{acme}")).status_code == 200
