"""The documents of 100 projects: split, embedded, stored, and looked at again.

GitHub and the embeddings service are the tests' own, on loopback and in this process, and answer at
once. What is measured is therefore Rota and its database, and not what the two would take.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import logging
import os
import random
import shlex
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from benchmarks.apply import _directory
from benchmarks.github import TENANT, _answers, _token, make_tenant
from benchmarks.processes import BenchmarkError, free_port, python, running, wait_until
from benchmarks.report import Figures, Machine, document, markdown, say
from benchmarks.servers import Servers, started
from blocks.embedders import LocalEmbedder, OpenAIEmbedder
from blocks.github_service import GitHub
from blocks.records import Records
from flows.chunks import split
from flows.embedding import Named
from flows.indexing import Indexer, Project
from flows.outline import Markdown
from tests.documents.embeddings import EmbeddingsServer
from tests.github.fake import TOKEN, Clock, FakeGitHub

PROJECTS = 100
DOCUMENTS = 20
"""Of each project."""
SECTIONS = 8
"""Of each document; each is about 2 kB of words."""
LOCAL_PROJECTS = 2
"""Projects that the local model embeds; it takes hundreds of times longer than all the rest."""
DIMENSIONS = 384
AT_ONCE = 4

WORDS = [f"{start}{end}" for start in ("inter", "data", "ser", "work") for end in ("net", "base")]


@dataclass(frozen=True)
class Cost:
    """What one run took.

    Attributes:
        counts: What the run counted.
        seconds: By the wall's clock.
        requests: To GitHub.
    """

    counts: Counter[str]
    seconds: float
    requests: int


def a_document(number: int) -> bytes:
    """Return a Markdown document, always the same for a number."""
    dice = random.Random(number)
    sections = [
        f"## Section {section}\n\n"
        + "\n\n".join(
            " ".join(dice.choices(WORDS, k=40)).capitalize() + f" {number}." for _ in range(6)
        )
        for section in range(SECTIONS)
    ]
    return (f"# Document {number}\n\n" + "\n\n".join(sections) + "\n").encode()


@contextmanager
def outside() -> Iterator[tuple[FakeGitHub, EmbeddingsServer]]:
    """Serve a GitHub with documents, and an embeddings service, in a thread of their own."""
    fake, embeddings = FakeGitHub(Clock()), EmbeddingsServer(dimensions=DIMENSIONS)
    fake.limit = fake.remaining = 10_000_000
    for project in range(PROJECTS):
        fake.add(f"project-{project:03}")
        for number in range(DOCUMENTS):
            path = f"docs/{number:02}.md" if number else "README.md"
            place = (f"acme/project-{project:03}", path)
            fake.files[place] = a_document(project * DOCUMENTS + number)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    fake.address = _served(loop, fake.serve)
    embeddings.address = f"{_served(loop, embeddings.handle)}/v1"
    try:
        yield fake, embeddings
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def _served(loop: asyncio.AbstractEventLoop, handle: Callable[..., Any]) -> str:
    starting = asyncio.start_server(handle, "127.0.0.1", 0)
    listener = asyncio.run_coroutine_threadsafe(starting, loop).result()
    return f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


@dataclass
class House:
    """The tenant's records, and what is outside of them."""

    fake: FakeGitHub
    records: Records

    @property
    def block(self) -> GitHub:
        """The block of the organization."""
        return GitHub(organization="acme", token=TOKEN, base_url=self.fake.address)

    async def sync(self, minute: int, most: int = PROJECTS) -> None:
        """Write the first `most` projects as pushed to at a minute."""
        items = [
            {
                "repository_id": one["id"],
                "name": one["name"],
                "full_name": one["full_name"],
                "default_branch": "main",
                "pushed_at": f"2026-11-21T10:{minute:02}:00Z",
                "url": one["html_url"],
            }
            for one in self.fake.repositories[:most]
        ]
        async with self.records.of(TENANT) as mine:
            await mine.put("projects", body={"source": self.block.source, "projects": items})

    async def run(self, embedder: Any = None, most: int = PROJECTS) -> Cost:
        """Do what the duty does in one run, for the first `most` projects."""
        self.fake.requests.clear()
        named = Named(f"benchmark@{embedder.space}", embedder) if embedder else None
        began = time.perf_counter()
        async with self.records.of(TENANT) as mine, self.block.connected() as github:
            indexer = Indexer(mine, github, named, logging.getLogger("benchmark"))
            rows = [one async for page in mine.pages("projects") for one in page]
            projects = [Project.model_validate(row) for row in rows][:most]
            await indexer.index(projects, AT_ONCE)
        seconds = time.perf_counter() - began
        if indexer.counts["projects_failed"]:
            raise BenchmarkError(f"{indexer.counts['projects_failed']} projects failed")
        return Cost(indexer.counts, seconds, len(self.fake.requests))


def measure_splitting(figures: Figures) -> None:
    """Measure what has no input and no output."""
    texts = [a_document(number).decode() for number in range(500)]
    began = time.perf_counter()
    chunks = sum(len(split(Markdown(text))) for text in texts)
    rate = chunks / (time.perf_counter() - began)
    figures.add("Splitting alone", f"{rate:,.0f} chunks/s", values={"chunks_per_second": rate})


async def run(house: House, embeddings: EmbeddingsServer, figures: Figures) -> None:
    """Measure everything else, in order."""

    def tell(name: str, cost: Cost) -> None:
        chunks = cost.counts["chunks"]
        rate = chunks / cost.seconds
        written = f"{chunks:,} chunks, {rate:,.0f}/s; " if chunks else ""
        figures.add(
            name,
            f"{written}{cost.seconds:.1f} s, {cost.requests:,} requests to GitHub",
            values={
                "chunks": chunks,
                "chunks_per_second": rate,
                "seconds": cost.seconds,
                "requests": cost.requests,
            },
        )

    total = f"{PROJECTS * DOCUMENTS:,} documents"
    await house.sync(minute=0)
    tell(f"{total}, first time, without vectors", await house.run())
    tell("Nobody has pushed", await house.run())
    await house.sync(minute=1)
    tell("All projects pushed to, no document changed", await house.run())
    for project in range(PROJECTS):
        place = (f"acme/project-{project:03}", "docs/01.md")
        house.fake.files[place] = a_document(1_000_000 + project)
    await house.sync(minute=2)
    tell("All projects pushed to, one document of each changed", await house.run())
    service = OpenAIEmbedder(base_url=embeddings.address)
    tell(f"{total}, vectors of {DIMENSIONS} from a service", await house.run(service))
    if importlib.util.find_spec("sentence_transformers") is None:
        say("  The extra `embeddings` is not installed, so the local model is not measured.")
        return
    local = LocalEmbedder()
    await local.embed(["read the model"])
    tell(
        f"{LOCAL_PROJECTS * DOCUMENTS} documents, vectors from all-MiniLM-L6-v2 on this machine",
        await house.run(local, LOCAL_PROJECTS),
    )


def main() -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench documents", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--keep", action="store_true", help="keep logs and databases")
    options = parser.parse_args()
    machine = Machine.this(shlex.join(["scripts/bench", "documents", *sys.argv[1:]]))
    figures = Figures()
    try:
        measure_splitting(figures)
        with _directory(options.keep) as directory, started(directory) as servers:
            measure_all(servers, directory, figures)
    except BenchmarkError as error:
        say(f"scripts/bench documents: {error}")
        return 1
    print(markdown(figures, machine))
    print(f"\nLoad at the end: {os.getloadavg()[0]:.2f}.")
    if options.json:
        found = document(figures, machine)
        options.json.write_bytes(orjson.dumps(found, option=orjson.OPT_INDENT_2))
    return 0


def measure_all(servers: Servers, directory: Path, figures: Figures) -> None:
    """Start the API, and what is outside; then measure."""
    asyncio.run(make_tenant(servers))
    environment, port = servers.environment(), free_port()
    address, log = f"http://127.0.0.1:{port}", directory / "api.log"
    command = python("-m", "scripts.rota", "serve", "--port", str(port))
    with running(command, environment, log) as process:
        wait_until(lambda: _answers(address), "the API", 60, process, log)
        records = Records(base_url=address, token=_token(environment))
        with outside() as (fake, embeddings):
            asyncio.run(run(House(fake, records), embeddings, figures))


if __name__ == "__main__":
    sys.exit(main())
