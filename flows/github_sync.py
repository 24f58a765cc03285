"""The duty that keeps the records of projects in step with an organization's repositories."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any

import httpx
from prefect import flow
from prefect.states import Completed
from pydantic import AwareDatetime, BaseModel, Field

from blocks.github_service import (
    GitHub,
    GitHubAnswerUnusable,
    GitHubRefused,
    GitHubSession,
    Repository,
)
from blocks.github_session import AT_ONCE
from blocks.outgoing import logger
from blocks.records import Records, RecordsRefused, TenantRecords
from flows.blocks_by_name import load
from flows.github_listing import Listing, Memory, walk
from flows.lists import NAMED, LaterList, batches, first_named, write
from flows.notices import tell
from flows.occurrence import current_occurrence
from flows.project_spec import MAX_SPEC_BYTES, SPEC_PATH, BadSpec, first_paragraph, read_spec
from flows.tenancy import tenant_of

NonEmpty = Annotated[str, Field(min_length=1, max_length=200)]

BATCH = 1000
"""Projects in one call."""

MEMORY_BYTES = 250 << 10
LIVE = ("active", "discovered")

LOOKED_FOR = 10
"""At most so many repositories that are not on the list are looked for one by one."""

OUTCOMES = ("created", "updated", "unchanged", "returned", "missing", "gone")


REMEDY = (
    "If it is right, run the duty once with allow_mass_change; if it is not, see whether the "
    "block's credentials may still read all repositories."
)


@flow
async def github_sync(
    service: NonEmpty = "default",
    archive_after: Annotated[int, Field(ge=1, le=1000)] = 3,
    allow_mass_change: bool = False,
    deadline_seconds: Annotated[float, Field(gt=0, le=86_400)] = 900,
    notify: Annotated[Sequence[NonEmpty], Field(max_length=20)] = (),
    records: NonEmpty = "default",
    tenant: NonEmpty | None = None,
) -> dict[str, int]:
    """Write which repositories an organization has, and what their own files say.

    A project is known by the repository's id, or else by its name. One whose repository is not
    there is missing; after some runs on end it is archived, and when the repository is back it is
    active. If a page of the list fails, the run fails, and nothing is marked. The file
    `.project-spec.yaml` of the default branch is read when somebody has pushed since it was read
    last, and so is the README while the project has no summary: its first paragraph becomes that.

    When another run has written a later list meanwhile, this one leaves it as it is.

    Run again for the same occurrence, it counts nothing twice.

    Args:
        service: The name of the GitHub Organization block to use.
        archive_after: In how many runs on end a repository is missing when its project is archived.
        allow_mass_change: Whether more than half of the projects may become missing at once.
        deadline_seconds: How long to wait for GitHub in all, in seconds; its rate limits are set
            back each hour.
        notify: The full names of notification blocks to tell people through what is new, such as
            `slack-webhook/ops`.
        records: The name of the Records block to write through.
        tenant: Whose records to write, for a run that no definition made.

    """
    slug, cycle = tenant_of(tenant), current_occurrence().idempotency_key
    organization = await load(GitHub, service, slug)
    book = await load(Records, records, slug)
    async with (
        book.of(slug) as mine,
        organization.connected(deadline_seconds=deadline_seconds) as github,
    ):
        at = datetime.now(UTC)
        sweep = Sweep(
            github, mine, organization.source, cycle, archive_after, allow_mass_change, at
        )
        message = None
        try:
            await sweep.run()
        except LaterList as later:
            message = str(later)
            logger(__name__).warning(message)
        finally:
            sweep.counts["requests"] = github.requests
            logger(__name__).info(
                "%s: %s", organization.source, dict(sweep.counts), extra={"action": "github_sync"}
            )
            await tell(mine, notify)
    return Completed(  # type: ignore[return-value]
        data=dict(sweep.counts), message=message or summary(organization.source, sweep.counts)
    )


def summary(source: str, counts: Mapping[str, int]) -> str:
    """Return one line about a run, with those counters that are worth telling."""
    words = {"created": "new", "updated": "changed", "returned": "back", "missing": "missing"}
    words |= {"gone": "archived", "unfit": "unusable", "read": "read", "unread": "unreadable"}
    told = [f"{counts[name]} {word}" for name, word in words.items() if counts.get(name)]
    return (
        f"{_number(counts.get('repositories', 0), 'repository', 'repositories')} in {source}: "
        f"{', '.join(told) or 'nothing new'}; "
        f"{_number(counts.get('requests', 0), 'request', 'requests')}."
    )


class Project(BaseModel):
    """What the records have of a project, as far as a sweep needs it."""

    id: str
    repository_id: int | None
    name: str
    full_name: str | None
    default_branch: str | None
    status: str
    summary: str | None
    pushed_at: AwareDatetime | None
    content_pushed_at: AwareDatetime | None

    @property
    def to_be_read(self) -> bool:
        """Whether somebody has pushed to it since its files were read."""
        if self.status not in LIVE or not (
            self.full_name and self.default_branch and self.pushed_at
        ):
            return False
        return self.content_pushed_at is None or self.content_pushed_at < self.pushed_at


@dataclass
class Sweep:
    """One look at all of an organization's repositories.

    Attributes:
        github: Where they are.
        mine: The records of the tenant.
        source: What the records call the organization.
        cycle: Tells two sweeps apart; one that is repeated has the same.
        archive_after: In how many sweeps a repository is missing when its project is archived.
        allow_mass_change: Whether most projects may become missing at once.
        listed_at: From before anything is read for it; UTC. None: it is written in any case.
        counts: What was done, so far.

    """

    github: GitHubSession
    mine: TenantRecords
    source: str
    cycle: str
    archive_after: int = 3
    allow_mass_change: bool = False
    listed_at: datetime | None = None
    counts: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        """Compare everything, write what differs, and read the files of what was pushed to.

        Raises:
            GitHubError: GitHub failed. If it failed on the list, nothing was written.
            MassChange: Most projects would become missing; nothing was marked.
            LaterList: A later list was written meanwhile; it is as if this one were not.
            RecordsError: The records could not be written.

        """
        memory = Memory.of(await self._remembered())
        projects = {one.repository_id: one for one in await self._projects() if one.repository_id}
        listing = await walk(self.github, memory.pages, projects.keys())
        self._report(listing)
        await self._look_twice(listing, projects)
        await self._write(listing)
        # From here on, what did not change may be taken for written.
        fitting = Memory(pages=listing.pages).within(MEMORY_BYTES).model_dump()
        await self.mine.put("checkpoints", self._key, body={"value": fitting})
        await self._read_files([one for one in await self._projects() if one.to_be_read])

    @property
    def _key(self) -> str:
        return f"github_sync/{self.source}"

    async def _remembered(self) -> Any:
        try:
            return (await self.mine.get("checkpoints", self._key))["value"]
        except RecordsRefused as refused:
            if refused.status != httpx.codes.NOT_FOUND:
                raise
            return None

    async def _projects(self) -> list[Project]:
        pages = self.mine.pages("projects", params={"source": self.source})
        return [Project.model_validate(one) async for page in pages for one in page]

    def _report(self, listing: Listing) -> None:
        listed = len(listing.changed) + len(listing.unchanged) + len(listing.misfits)
        self.counts["repositories"] = listed
        self.counts["unfit"] = len(listing.misfits)
        lines = [
            f"The repository {one.name} is left out, it does not fit: {one.reason}"
            for one in listing.misfits
        ]
        for line in first_named(lines):
            logger(__name__).warning("%s", line)
        if listing.present is None:
            logger(__name__).warning(
                "An entry of the list has no usable id. No project is marked as missing, for it "
                "could be any."
            )

    async def _look_twice(self, listing: Listing, projects: Mapping[int, Project]) -> None:
        """Ask for those that are not on the list, or for some of them if they are many.

        When a repository is deleted between two pages, the one after them moves from the second to
        the first, and is on neither. Where many are absent and one of them is there, so may be the
        others, and the list is of no use.
        """
        there = set(listing.present or ())
        absent = [
            number for number, one in projects.items() if number not in there and one.status in LIVE
        ]
        if listing.present is None:
            return
        for number in absent[:: -(-len(absent) // LOOKED_FOR) or 1]:
            if not await self.github.has(number):
                continue
            if len(absent) > LOOKED_FOR:
                raise GitHubAnswerUnusable(
                    f"GitHub's list lacks {len(absent)} repositories that were on it before, "
                    f"but {projects[number].name!r} is there."
                )
            listing.unchanged.add(number)

    # -- what the list says

    async def _write(self, listing: Listing) -> None:
        items = [item_of(one) for one in listing.changed.values()]
        *parts, last = batches(items, BATCH)
        for part in parts:
            await self._put({"projects": part})
        # What is missing is told with the last batch, when all names are those of today.
        await self._put(
            {
                "projects": last,
                "present": listing.present,
                "cycle": self.cycle,
                "archive_after": self.archive_after,
                "allow_mass_change": self.allow_mass_change,
            }
        )

    async def _put(self, body: dict[str, Any]) -> None:
        at = self.listed_at and self.listed_at.isoformat()
        body = {"source": self.source, "listed_at": at, **body}
        written = await write(self.mine, "projects", self.source, body, REMEDY)
        for outcome in OUTCOMES:
            names = written[outcome]
            self.counts[outcome] += len(names)
            if names and outcome != "unchanged":
                more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
                logger(__name__).info("%s: %s%s", outcome, ", ".join(names[:NAMED]), more)

    # -- what the files say

    async def _read_files(self, projects: Sequence[Project]) -> None:
        for done in range(0, len(projects), AT_ONCE):
            try:
                async with asyncio.TaskGroup() as group:
                    for project in projects[done : done + AT_ONCE]:
                        group.create_task(self._read(project))
            except BaseExceptionGroup as errors:
                logger(__name__).warning(
                    "The files of some %d projects are still to be read; the next run does that.",
                    len(projects) - done,
                )
                raise errors.exceptions[0] from errors.exceptions[0].__cause__

    async def _read(self, project: Project) -> None:
        assert project.full_name is not None, "it would not be read"
        assert project.default_branch is not None
        assert project.pushed_at is not None
        try:
            found = await self._spec(project.full_name, project.default_branch)
            if project.summary is None:
                found["summary"] = await self._summary(project.full_name, project.default_branch)
            found["content_pushed_at"] = project.pushed_at.isoformat()
            await self.mine.patch("projects", project.id, body=found)
        except (GitHubRefused, RecordsRefused, ValueError) as error:
            if getattr(error, "status", None) == httpx.codes.UNAUTHORIZED:
                raise
            self.counts["unread"] += 1
            logger(__name__).warning("The files of %s were not read: %s", project.name, error)
        else:
            self.counts["read"] += 1

    async def _spec(self, repository: str, branch: str) -> dict[str, Any]:
        """Return what the records are told of a `.project-spec.yaml`; a bad one leaves the last."""
        try:
            content = await self.github.file(repository, SPEC_PATH, branch, MAX_SPEC_BYTES)
            spec = None if content is None else await asyncio.to_thread(read_spec, content)
        except GitHubAnswerUnusable:
            problem = f"{SPEC_PATH}: It is larger than {MAX_SPEC_BYTES:,} bytes."
        except BadSpec as bad:
            problem = f"{SPEC_PATH}: {bad}"
        else:
            return {"spec": spec, "spec_problem": None}
        self.counts["bad_specs"] += 1
        logger(__name__).warning("%s: %s", repository, problem)
        return {"spec_problem": problem}

    async def _summary(self, repository: str, branch: str) -> str | None:
        try:
            readme = await self.github.readme(repository, branch)
        except GitHubAnswerUnusable:  # too large; nobody can mend that here
            return None
        return None if readme is None else first_paragraph(readme)


def item_of(one: Repository) -> dict[str, Any]:
    """Return a repository as the records take it."""
    return {
        "repository_id": one.id,
        "name": one.name,
        "full_name": one.full_name,
        "description": one.description,
        "topics": one.topics,
        "default_branch": one.default_branch,
        "visibility": one.visibility or ("private" if one.private else "public"),
        "archived": one.archived,
        "pushed_at": one.pushed_at.isoformat() if one.pushed_at else None,
        "url": one.html_url,
    }


def _number(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
