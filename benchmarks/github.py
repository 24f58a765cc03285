"""An organization of 1,000 repositories of which none has changed, against a loop over PyGithub.

The GitHub is the tests' own, on loopback. It takes a while for each answer, as the real one does;
`--answer-ms` says how long.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
from github import Auth, Github

from benchmarks.apply import _directory
from benchmarks.processes import BenchmarkError, free_port, python, running, wait_until
from benchmarks.report import Figures, Machine, document, markdown, say
from benchmarks.servers import Servers, started
from blocks.github_service import GitHub
from blocks.records import Records
from flows.github_sync import Sweep
from tests.github.fake import TOKEN, Clock, FakeGitHub

REPOSITORIES = 1000
TENANT = "acme"
MOST_REQUESTS = 12
FIELDS = 60
"""Fields of a repository that nobody reads; they make it as large as the real one's 5 kB."""


@dataclass(frozen=True)
class Cost:
    """What one way of looking at all repositories took.

    Attributes:
        requests: To GitHub.
        seconds: By the wall's clock.
        unchanged: How many of the answers were 304, which GitHub's rate limit does not count.
    """

    requests: int
    seconds: float
    unchanged: int


@contextmanager
def github(answer_seconds: float) -> Iterator[FakeGitHub]:
    """Serve an organization in a thread of its own."""
    fake = FakeGitHub(Clock())
    for number in range(REPOSITORIES):
        name = f"repository-{number}"
        address = f"https://api.github.com/repos/acme/{name}/some-part-of-it"
        fake.add(name, **{f"part_{field}_url": address for field in range(FIELDS)})
        fake.files[f"acme/{name}", ".project-spec.yaml"] = b"owner: payments\n"
        fake.files[f"acme/{name}", "README.md"] = b"# It\n\nDoes something.\n"
    fake.limit = fake.remaining = 1_000_000
    fake.before(lambda request: asyncio.sleep(answer_seconds))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    serving = asyncio.start_server(fake.serve, "127.0.0.1", 0)
    listener = asyncio.run_coroutine_threadsafe(serving, loop).result()
    fake.address = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield fake
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def measured(fake: FakeGitHub, do: Callable[[], object]) -> Cost:
    """Return what `do` costs."""
    fake.requests.clear()
    began = time.perf_counter()
    do()
    seconds = time.perf_counter() - began
    answers = [request.status for request in fake.requests]
    return Cost(len(answers), seconds, answers.count(304))


def loop_over(client: Github) -> None:
    """Do what a script with PyGithub does."""
    seen = 0
    for one in client.get_organization("acme").get_repos():
        seen += bool((one.id, one.name, one.description, one.topics, one.archived, one.pushed_at))
    if seen != REPOSITORIES:
        raise BenchmarkError(f"PyGithub saw {seen} repositories")


async def sweep(block: GitHub, records: Records, cycle: str) -> None:
    """Do what the duty does in one run."""
    async with records.of(TENANT) as mine, block.connected() as session:
        await Sweep(session, mine, block.source, cycle).run()


def run(fake: FakeGitHub, records: Records, figures: Figures) -> None:
    """Measure everything, in order."""
    block = GitHub(organization="acme", token=TOKEN, base_url=fake.address)
    ours = "`github_sync`, records written"

    def tell(name: str, cost: Cost, most: int | None = None) -> None:
        figures.add(
            f"{name}: requests, of them 304; seconds",
            f"{cost.requests}, {cost.unchanged}; {cost.seconds:.1f} s",
            f"at most {most} requests" if most else "",
            cost.requests <= most if most else None,
            {"requests": cost.requests, "unchanged": cost.unchanged, "seconds": cost.seconds},
        )

    first = measured(fake, lambda: asyncio.run(sweep(block, records, "first")))
    tell(f"{ours}, first time, with all files", first)
    again = measured(fake, lambda: asyncio.run(sweep(block, records, "again")))
    tell(f"{ours}, unchanged", again, MOST_REQUESTS)
    with Github(auth=Auth.Token(TOKEN), base_url=fake.address) as plain:
        tell("PyGithub's loop, list only", measured(fake, lambda: loop_over(plain)))
    tuned = {"per_page": 100, "seconds_between_requests": 0}
    with Github(auth=Auth.Token(TOKEN), base_url=fake.address, **tuned) as client:
        tell(
            "PyGithub's loop, list only, 100 a page, without its pauses",
            measured(fake, lambda: loop_over(client)),
        )


async def make_tenant(servers: Servers) -> None:
    """Make the tenant that the projects belong to."""
    connection = await servers.rota()
    try:
        await connection.execute("insert into tenants (slug) values ($1)", TENANT)
    finally:
        await connection.close()


def _token(environment: dict[str, str]) -> str:
    create = ("token", "create", "--role", "worker", "--tenant", TENANT, "--json")
    done = subprocess.run(
        python("-m", "scripts.rota", *create), env=environment, capture_output=True, check=True
    )
    return str(orjson.loads(done.stdout)["token"])


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/healthz").is_success
    except httpx.TransportError:
        return False


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench github", description=__doc__)
    parser.add_argument("--answer-ms", type=float, default=200, help="of each answer (200)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--keep", action="store_true", help="keep logs and databases")
    options = parser.parse_args()
    machine = Machine.this(shlex.join(["scripts/bench", "github", *sys.argv[1:]]))
    figures = Figures()
    try:
        with _directory(options.keep) as directory, started(directory) as servers:
            asyncio.run(make_tenant(servers))
            environment, port = servers.environment(), free_port()
            address, log = f"http://127.0.0.1:{port}", directory / "api.log"
            command = python("-m", "scripts.rota", "serve", "--port", str(port))
            with running(command, environment, log) as process:
                wait_until(lambda: _answers(address), "the API", 60, process, log)
                records = Records(base_url=address, token=_token(environment))
                with github(options.answer_ms / 1000) as fake:
                    run(fake, records, figures)
    except BenchmarkError as error:
        say(f"scripts/bench github: {error}")
        return 1
    print(markdown(figures, machine))
    print(f"\nLoad at the end: {os.getloadavg()[0]:.2f}.")
    if options.json:
        found = document(figures, machine)
        options.json.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
