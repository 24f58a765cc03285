"""Duties that are killed in the middle end as if nobody had killed them, once they run again.

Each test first lets a run end, as what is to come out. Then, for point after point, it begins anew:
a process runs the duty, and is killed while the other side holds an answer back.
"""

import asyncio
import inspect
import json
import logging
import os
import re
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pytest
from prefect import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow_async
from prefect.states import Scheduled

from blocks.embedders import OpenAIEmbedder
from blocks.github_service import GitHub
from blocks.records import Records
from blocks.ssh import SSHAccess
from flows.embedding import Named
from flows.github_sync import Sweep, github_sync
from flows.health_checker import health_checker
from flows.indexing import Indexer, Project
from flows.rag_summarizer import rag_summarizer
from flows.vitals import Problem
from tests.documents.conftest import Site
from tests.documents.conftest import server as embeddings
from tests.documents.embeddings import KEY, EmbeddingsServer
from tests.github.conftest import serving
from tests.github.fake import TOKEN, Clock, FakeGitHub
from tests.prefect.conftest import Call, Deployed, Proxy
from tests.provisioning.conftest import Inbox
from tests.provisioning.conftest import inbox as inbox
from tests.ssh.conftest import HEALTHY, Fakes
from tests.ssh.conftest import access as access
from tests.ssh.conftest import client_key as client_key
from tests.ssh.conftest import fakes as fakes
from tests.ssh.test_health_checker import FULL, Fleet
from tests.vps.conftest import rota as rota
from tests.vps.serving import Rota

__all__ = ["access", "client_key", "embeddings", "fakes", "inbox", "rota"]

pytestmark = pytest.mark.acceptance

# Small, so that a few items take several calls.
SIZES = {
    "flows.github_sync.BATCH": 2,
    "flows.health_checker.BATCH": 3,
    "flows.indexing.BATCH_BYTES": 1,
}

# It has imported everything when it is told of a run, for which it makes a process.
STARTER = f"""
import asyncio, importlib, os, pkgutil, sys
from prefect import get_client
from prefect.flow_engine import run_flow_async

for name, size in {SIZES!r}.items():
    owner, _, size_of = name.rpartition(".")
    setattr(pkgutil.resolve_name(owner), size_of, size)
flows = [importlib.import_module("flows." + name) for name in
         ("github_sync", "health_checker", "rag_summarizer")]

async def work(duty, run_id):
    async with get_client() as client:
        run = await client.read_flow_run(run_id)
    flow = getattr(sys.modules["flows." + duty], duty)
    await run_flow_async(flow, flow_run=run, parameters=run.parameters)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        asyncio.run(work(*line.split()))
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""

TABLES = (
    *("projects", "documents", "chunks", "chunk_vectors", "checkpoints"),
    *("servers", "server_changes", "incidents", "notices"),
)
OF_THE_CLOCK = {"id", "chunk_id", "created_at", "updated_at"}
"""Columns that differ between two runs that do the same."""

CLAIMED = "what people are told"
"""The one point at which a notice is lost: it was claimed, and is not sent."""

Row = dict[str, Any]
Held = dict[str, list[Row]]
Arm = Callable[[], object]
"""Has something kill the process, as soon as it comes to a point."""


class Stage:
    """The API behind a proxy, a duty's runs of one occurrence, and whoever kills their process."""

    def __init__(self, rota: Rota, proxy: Proxy, inbox: Inbox, starter: Process) -> None:
        self.rota = rota
        self.proxy = proxy
        self.inbox = inbox
        self._starter = starter
        self._victim: int | None = None
        self._aim = ("", 0, "")
        self._locked: asyncio.Task[None] | None = None
        proxy.fault = self._fault

    # -- runs

    async def run(self, duty: Any, run: FlowRun) -> None:
        """Runs it to its end, as a worker does that has taken it up, for the first time or not."""
        async with get_client() as client:
            await client.set_flow_run_state(run.id, Scheduled(), force=True)
            again = await client.read_flow_run(run.id)
        await run_flow_async(duty, flow_run=again, parameters=run.parameters)

    async def die(self, duty: Any, run: FlowRun, arm: Arm) -> None:
        """Has a process run it, which is killed where `arm` says."""
        if inspect.isawaitable(armed := arm()):
            await armed
        assert self._starter.stdin is not None
        assert self._starter.stdout is not None
        self._starter.stdin.write(f"{duty.fn.__name__} {run.id}\n".encode())
        async with asyncio.timeout(30):
            self._victim = int(await self._starter.stdout.readline())
            status = int(await self._starter.stdout.readline())
        self._victim, self._aim = None, ("", 0, "")
        if self._locked is not None:
            await self._locked
        assert status == -signal.SIGKILL, "it was over before it came to the point"

    # -- points

    def kill(self) -> None:
        """Kills the process, if there is one."""
        if self._victim is not None:
            os.kill(self._victim, signal.SIGKILL)

    def at(self, pattern: str, number: int = 1, how: str = "done") -> Arm:
        """Returns what kills it at a call to the API, which then is done, or does not arrive."""

        def arm() -> None:
            self._aim = (pattern, number, how)

        return arm

    def asked(self, github: FakeGitHub, pattern: str) -> Arm:
        """Returns what kills it at a request to GitHub, which then has no answer."""

        def arm() -> None:
            github.before(lambda one: self._armed(pattern, one.path) and self.kill())
            self._aim = (pattern, 1, "asked")

        return arm

    def _armed(self, pattern: str, path: str) -> bool:
        return self._aim[0] == pattern and re.search(pattern, path) is not None

    async def in_the_database(self) -> None:
        """Has it killed while the API is in the middle of writing chunks."""
        transaction = self.rota.sql.transaction()
        await transaction.start()
        await self.rota.sql.execute("lock table chunks in exclusive mode")

        async def wait() -> None:
            waits = "select exists (select from pg_locks where not granted)"
            while not await self.rota.sql.fetchval(waits):  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.005)
            self.kill()
            await transaction.rollback()

        self._locked = asyncio.create_task(wait())

    def _fault(self, call: Call) -> str | None:
        pattern, left, how = self._aim
        if (
            how == "asked"
            or not left
            or not re.search(pattern, f"{call.method} {call.path.partition('?')[0]}")
        ):
            return None
        self._aim = (pattern, left - 1, how)
        if left > 1:
            return None
        self.proxy.victim = self._victim
        if how == "lost":
            self.kill()
            return "cut"
        return "kill"

    # -- what the records hold

    async def begin_anew(self) -> None:
        """Takes everything of the tenant away."""
        await self.rota.sql.execute("delete from tenants where slug = 'acme'")
        await self.rota.sql.execute("delete from server_changes")
        await self.rota.add_tenant("acme")
        self.inbox.messages.clear()

    async def held(self) -> Held:
        """Reads all that the records hold, with its ids."""
        await self._at_rest()
        found = {}
        for table in TABLES:
            rows = await self.rota.rows(f"select to_jsonb(one)::text as row from {table} one")
            found[table] = [json.loads(row["row"]) for row in rows]
        return found

    async def _at_rest(self) -> None:
        """Waits until the API is done with what the process had sent before it died."""
        busy = "select count(*) from pg_stat_activity where datname = current_database() and "
        busy += "backend_type = 'client backend' and state <> 'idle' and pid <> pg_backend_pid()"
        async with asyncio.timeout(10):
            while await self.rota.sql.fetchval(busy):  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)


def alike(held: Held) -> dict[str, list[str]]:
    """Returns what is the same after two runs that do the same: names stand for the ids."""
    text = json.dumps(held)
    for table, name in (("projects", "name"), ("documents", "path"), ("servers", "handle")):
        for row in held[table]:
            text = text.replace(row["id"], row[name])
    for chunk in held["chunks"]:
        text = text.replace(f'"chunk_id": {chunk["id"]},', f'"of": {json.dumps(chunk["text"])},')
    return {table: sorted(map(_steady, rows)) for table, rows in json.loads(text).items()}


def _steady(row: Row) -> str:
    kept = {name: value for name, value in row.items() if name not in OF_THE_CLOCK}
    kept.pop("at", None)
    if "missing_cycles" in row:
        del kept["last_seen_at"]
    if "claimed_at" in row:
        kept["claimed_at"] = row["claimed_at"] is not None
    if "health" in row and "facts" in row["health"]:
        kept["health"]["facts"].pop("clock_skew_seconds", None)
    return json.dumps(kept, sort_keys=True)


def ids(held: Held) -> dict[str, list[Any]]:
    """Returns the ids, which are others where something was deleted and made again."""
    return {table: sorted(row["id"] for row in rows if "id" in row) for table, rows in held.items()}


@pytest.fixture(scope="module")
async def starter(prefect_server: str) -> AsyncIterator[Process]:
    command = (sys.executable, "-c", STARTER)
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    yield process
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


@pytest.fixture
async def stage(
    rota: Rota, inbox: Inbox, starter: Process, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stage]:
    for name, size in SIZES.items():
        monkeypatch.setattr(name, size)
    proxy = Proxy(rota.url)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    token = (await rota.records()).token
    await Records(base_url=address, token=token).asave("default", overwrite=True)
    yield Stage(rota, proxy, inbox, starter)
    server.close()
    await proxy.close()
    for kind in (SSHAccess, OpenAIEmbedder):
        with suppress(ValueError):
            await kind.adelete("default")


@pytest.fixture
async def github() -> AsyncIterator[FakeGitHub]:
    async with serving(FakeGitHub(Clock())) as fake:
        block = GitHub(organization="acme", token=TOKEN, base_url=fake.address)
        await block.asave("default", overwrite=True)
        yield fake
    await GitHub.adelete("default")


Prepare = Callable[[], Awaitable[None]]
Look = Callable[[str, Held, Held], None]


async def compare(
    stage: Stage, duty: Any, parameters: Row, prepare: Prepare, points: dict[str, Arm], look: Look
) -> Held:
    """Kills a run at each point, and holds what comes of it against a run that nobody killed."""

    async def begin() -> FlowRun:
        await stage.begin_anew()
        await prepare()
        return await Deployed(duty, parameters).scheduled_run()

    await stage.run(duty, await begin())
    end, told = await stage.held(), Counter(stage.inbox.subjects)
    for point, arm in points.items():
        run = await begin()
        before = await stage.held()
        await stage.die(duty, run, arm)
        left = await stage.held()
        look(point, before, left)
        await stage.run(duty, run)
        again = await stage.held()
        assert alike(again) == alike(end), point
        await stage.run(duty, run)
        third = await stage.held()
        assert alike(third) == alike(end), point
        assert ids(third) == ids(again), point
        lost = told - Counter(stage.inbox.subjects)
        assert lost.total() == (point == CLAIMED), point
        assert Counter(stage.inbox.subjects) + lost == told, point
    return end


# -- github_sync


async def test_a_killed_sweep_of_repositories_counts_no_project_twice_as_missing(
    stage: Stage, github: FakeGitHub
):
    organization = await GitHub.aload("default")

    async def prepare() -> None:
        github.repositories.clear()
        github.files.clear()
        for name in ("gone", "shop", "site", "tools"):
            github.add(name)
            github.files[f"acme/{name}", ".project-spec.yaml"] = b"name: one\n"
        async with (
            (await stage.rota.records()).of("acme") as mine,
            organization.connected() as session,
        ):
            await Sweep(session, mine, organization.source, "the day before").run()
        github.remove("gone")
        github.add("new", id=2000)
        [tools] = [one for one in github.repositories if one["name"] == "tools"]
        tools |= {"name": "tooling", "full_name": "acme/tooling"}
        for name in ("shop", "site", "tooling", "new"):
            github.files[f"acme/{name}", ".project-spec.yaml"] = b"name: other\n"
            github.files[f"acme/{name}", "README.md"] = f"# {name}\n\nThis is {name}.\n".encode()
        for one in github.repositories:
            one["pushed_at"] = "2026-11-21T09:00:00Z"

    def look(point: str, before: Held, left: Held) -> None:
        missing = {one["name"]: one["missing_cycles"] for one in left["projects"]}
        told = point not in ("the list", "the first write")
        assert missing.pop("gone") == told, point
        assert set(missing.values()) == {0}, point
        assert len(left["notices"]) == told, point
        if point == "the list":
            assert left == before

    parameters = {"archive_after": 2, "notify": ["custom-webhook/ops"]}
    points = {
        "the list": stage.asked(github, "/repos$"),
        "the first write": stage.at("PUT .*/projects$"),
        "the last write": stage.at("PUT .*/projects$", 2),
        "the checkpoint": stage.at("PUT .*/checkpoints/", how="lost"),
        "what a file says": stage.at("PATCH .*/projects/", 2),
    }
    end = await compare(stage, github_sync, parameters, prepare, points, look)

    assert {one["name"]: one["status"] for one in end["projects"]} == {
        **dict.fromkeys(("shop", "site", "tooling", "new"), "active"),
        "gone": "missing",
    }
    assert {one["summary"] for one in end["projects"]} > {"This is shop.", "This is new."}


# -- health_checker


async def test_a_killed_look_at_servers_doubles_no_failure_no_incident_and_no_change_of_state(
    stage: Stage, fakes: Fakes, access: Any
):
    armed: list[str] = []

    async def answer(process: Any) -> None:
        if armed:
            stage.kill()
        process.stdout.write(HEALTHY.replace(b"1700000000", str(int(time.time())).encode()))
        process.exit(0)

    good = (await fakes.ssh(answer)).host
    hosts = {
        "back": good,
        "down": fakes.refusing(),
        "eased": good,
        "first": fakes.refusing(),
        "full": (await fakes.ssh(FULL)).host,
        "good": good,
    }
    fleet = Fleet(stage.rota, access)
    full = asdict(Problem("resource_exhausted", "critical", "It is full.", "disk /"))

    async def prepare() -> None:
        for handle, host in hosts.items():
            await fleet.add(handle, host)
        await fleet.trust(host_keys="trust-on-first-use")
        found = [dict.fromkeys(hosts, "up") | {"back": "down"} for _ in range(2)]
        found[1]["down"] = "down"
        async with (await stage.rota.records()).of("acme") as mine:
            for days, outcomes in zip((2, 1), found, strict=True):
                checks = [
                    {"handle": one, "outcome": outcome, "problems": [full] * (one == "eased")}
                    for one, outcome in outcomes.items()
                ]
                at = (Deployed.occurrence - timedelta(days=days)).isoformat()
                body = {"at": at, "checks": checks, "failures_needed": 2, "prober": "acme/noon"}
                await mine.put("servers", "checks", body=body)
            await mine.post("notices", "claim", body={"limit": 100})

    def look(point: str, before: Held, left: Held) -> None:
        armed.clear()
        if point == "a server":
            assert left == before, point
        failures = {one["handle"]: one["health"]["failures"] for one in left["servers"]}
        assert failures["first"] <= 1, point
        assert failures["down"] <= 2, point
        incidents = Counter((one["server"], one["kind"]) for one in left["incidents"])
        assert set(incidents.values()) == {1}, point
        changes = Counter(
            (one["handle"], one["before"], one["after"]) for one in left["server_changes"]
        )
        assert set(changes.values()) == {1}, point

    points = {
        "a server": lambda: armed.append("now"),
        "the first write": stage.at("PUT .*/servers/checks$"),
        "the last write": stage.at("PUT .*/servers/checks$", 2),
        "the checkpoint": stage.at("PUT .*/checkpoints/"),
        CLAIMED: stage.at("POST .*/notices/claim$"),
    }
    parameters = {"notify": ["custom-webhook/ops"]}
    end = await compare(stage, health_checker, parameters, prepare, points, look)

    assert {one["handle"]: one["status"] for one in end["servers"]} == {
        **dict.fromkeys(("back", "eased", "first", "full", "good"), "in_use"),
        "down": "unreachable",
    }
    assert {(one["server"], one["kind"], one["status"]) for one in end["incidents"]} == {
        ("back", "server_unreachable", "resolved"),
        ("down", "server_unreachable", "detected"),
        ("eased", "resource_exhausted", "resolved"),
        ("full", "resource_exhausted", "detected"),
    }


# -- rag_summarizer


async def test_a_killed_reading_of_documents_leaves_each_whole_and_reads_none_twice_at_the_end(
    stage: Stage, github: FakeGitHub, embeddings: EmbeddingsServer
):
    block = OpenAIEmbedder(base_url=embeddings.address, api_key=KEY)
    await block.asave("default", overwrite=True)
    organization = await GitHub.aload("default")
    embedder = "openai-embedder/default"
    parameters = {"embedder": embedder, "at_once": 1}
    long = "".join(f"## Part {n}\n\n{'It is about penguins. ' * 60}\n\n" for n in range(6))
    versions: list[dict[str, str | None]] = [
        {"README.md": "# Shop\n\nShop sells things.\n", "docs/a.md": long, "docs/gone.md": "Gone."},
        {
            "README.md": "# Shop\n\nShop sells other things.\n",
            "docs/a.md": long.replace("penguins", "owls"),
            "docs/gone.md": None,
            "docs/new.md": "# New\n\nThis is new.\n",
        },
    ]
    whole: dict[str, set[str]] = {}

    async def prepare() -> None:
        github.repositories.clear()
        github.files.clear()
        site = Site(github, organization, await stage.rota.records(), "acme")
        for name in ("shop", "site"):
            await site.push(name, versions[0])
        async with (
            (await stage.rota.records()).of("acme") as mine,
            organization.connected() as session,
        ):
            rows = [one async for page in mine.pages("projects") for one in page]
            log = logging.getLogger("tests")
            indexer = Indexer(mine, session, Named(f"{embedder}@{block.space}", block), log)
            await indexer.index([Project.model_validate(row) for row in rows], at_once=1)
        for name in ("shop", "site"):
            await site.push(name, versions[1])

    def look(point: str, before: Held, left: Held) -> None:
        if point == "the tree":
            assert left == before, point
        vectors = {one["chunk_id"] for one in left["chunk_vectors"]}
        for document in left["documents"]:
            chunks = [one for one in left["chunks"] if one["document_id"] == document["id"]]
            assert len(chunks) == document["chunks"], point
            assert {one["id"] for one in chunks} <= vectors, point
            text = " ".join(one["text"] for one in sorted(chunks, key=lambda one: one["position"]))
            whole.setdefault(document["content_hash"], set()).add(text)

    points: dict[str, Arm] = {
        "the tree": stage.asked(github, "/git/trees/"),
        "the database": stage.in_the_database,
        "the first write": stage.at("PUT .*/documents$"),
        "what is gone": stage.at("PUT .*/documents$", 4, how="lost"),
        "the checkpoint": stage.at("PUT .*/checkpoints/", how="lost"),
    }
    end = await compare(stage, rag_summarizer, parameters, prepare, points, look)

    assert [one["path"] for one in end["documents"]].count("docs/gone.md") == 0
    assert {one["summary"] for one in end["projects"]} == {"Shop sells other things."}
    assert {len(texts) for texts in whole.values()} == {1}, "a document was written by halves"
    asked = len(github.requests), len(embeddings.requests)
    await stage.run(rag_summarizer, await Deployed(rag_summarizer, parameters).manual_run())
    assert (len(github.requests), len(embeddings.requests)) == asked
