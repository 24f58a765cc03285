"""The duty that keeps the projects' documents for search, and their summaries."""

from collections import Counter
from typing import Annotated

from prefect import flow, get_run_logger
from prefect.states import Completed
from pydantic import Field, ValidationError

from blocks.embedders import EMBEDDERS, Embedder
from blocks.github_service import GitHub
from blocks.records import Records, TenantRecords
from flows.blocks_by_name import load
from flows.embedding import Named
from flows.indexing import Indexer, Project
from flows.tenancy import tenant_of

NonEmpty = Annotated[str, Field(min_length=1, max_length=200)]


class NothingIndexed(Exception):
    """There are projects, and the documents of none of them could be kept."""


@flow
async def rag_summarizer(
    service: NonEmpty = "default",
    embedder: Annotated[str, Field(pattern=r"^(openai|local)-embedder/.{1,150}$")] | None = None,
    allow_mass_change: bool = False,
    at_once: Annotated[int, Field(ge=1, le=16)] = 4,
    deadline_seconds: Annotated[float, Field(gt=0, le=86_400)] = 1800,
    records: NonEmpty = "default",
    tenant: NonEmpty | None = None,
) -> dict[str, int]:
    """Keep the documents of all active projects for search, and a summary of each project.

    A project's documents are its README, the Markdown files below `docs/`, and
    `.project-spec.yaml`, as they stand on its default branch: at most 500, of at most 1 MiB each.
    They are kept in passages of about 512 tokens. Nothing is read of a project that nobody has
    pushed to, and a document that is known already is neither split nor embedded again. A run that
    was cut short is taken up again by the next.

    The summary is made of sentences of the README, or else of the first of the other documents.

    Args:
        service: The name of the GitHub Organization block to read the documents with.
        embedder: The full name of the block that embeds passages, so that search finds them by
            what they mean: `openai-embedder/default` or `local-embedder/default`. Without one they
            are found by their words.
        allow_mass_change: Whether a project may lose all of its documents at once, because GitHub
            lists no file of it.
        at_once: How many projects to read at the same time.
        deadline_seconds: When to give up while GitHub cannot answer, in seconds from the start.
        records: The name of the Records block to write through.
        tenant: Whose projects these are, for a run that no definition made.

    """
    slug = tenant_of(tenant)
    organization = await load(GitHub, service, slug)
    named = await _named(embedder, slug) if embedder else None
    book = await load(Records, records, slug)
    async with (
        book.of(slug) as mine,
        organization.connected(deadline_seconds=deadline_seconds) as github,
    ):
        indexer = Indexer(mine, github, named, get_run_logger(), allow_mass_change)
        projects, unusable = await _projects(mine, organization.source)
        await indexer.index(projects, at_once)
    counts = {"projects_unusable": unusable, **indexer.counts}
    get_run_logger().info("%s", counts, extra={"action": "rag_summarizer", "counts": counts})
    if projects and indexer.counts["projects_failed"] == len(projects):
        raise NothingIndexed(
            f"The documents of none of the {len(projects)} projects could be kept; the log says "
            "why of each."
        )
    return Completed(data=counts, message=_summary(indexer.counts))  # type: ignore[return-value]


async def _named(embedder: str, tenant: str) -> Named:
    kind, _, name = embedder.partition("/")
    block: Embedder = await load(EMBEDDERS[kind], name, tenant)
    return Named(f"{embedder}@{block.space}", block)


async def _projects(mine: TenantRecords, source: str) -> tuple[list[Project], int]:
    """Return the active projects that come from there, and how many of them lack a field."""
    found, unusable = [], 0
    params = {"status": "active", "source": source}
    async for page in mine.pages("projects", params=params):
        for row in page:
            try:
                found.append(Project.model_validate(row))
            except ValidationError as error:
                unusable += 1
                fields = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
                get_run_logger().warning(
                    "The project %r is left out; its record has no usable %s.",
                    row.get("name"),
                    fields,
                )
    return found, unusable


def _summary(counts: Counter[str]) -> str:
    documents = [
        f"{counts[f'documents_{what}']} {word}"
        for what, word in (
            ("created", "new"),
            ("updated", "changed"),
            ("gone", "gone"),
            ("left_out", "left out"),
            ("not_embedded", "not embedded"),
        )
        if counts[f"documents_{what}"]
    ]
    failed = f", {counts['projects_failed']} of which failed" if counts["projects_failed"] else ""
    return (
        f"{counts['projects']} projects{failed}; documents: "
        f"{', '.join(documents) or 'nothing new'}."
    )
