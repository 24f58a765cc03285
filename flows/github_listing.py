"""All repositories of an organization, of which only the pages that changed are read again."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, Field, ValidationError

from blocks.github_answers import PAGE
from blocks.github_service import (
    GitHubAnswerUnusable,
    GitHubSession,
    Misfit,
    Repository,
    RepositoryPage,
)

MAX_PAGES = 1000


class SeenPage(BaseModel):
    """What is remembered of a page: enough to know what is on it while it does not change.

    Attributes:
        etag: What tells whether it has changed; None if it has to be read in any case.
        ids: The repositories on it.
        last: Whether no page followed.

    """

    etag: str | None = Field(default=None, max_length=500)
    ids: list[int] = Field(default=[], max_length=PAGE)
    last: bool


class Memory(BaseModel):
    """What one sweep leaves for the next, at the checkpoint of its organization."""

    pages: list[SeenPage] = Field(default=[], max_length=MAX_PAGES)

    @classmethod
    def of(cls, value: object) -> "Memory":
        """Return what a checkpoint holds; nothing if it is of another form."""
        try:
            return cls.model_validate(value)
        except ValidationError:
            return cls()

    def within(self, most_bytes: int) -> "Memory":
        """Return as many of its first pages as fit into so many bytes of JSON."""
        room, pages = most_bytes - len('{"pages": []}'), []
        for page in self.pages:
            room -= len(json.dumps(page.model_dump())) + len(", ")
            if room < 0:
                break
            pages.append(page)
        return Memory(pages=pages)


@dataclass
class Listing:
    """An organization's repositories, as one sweep found them.

    Attributes:
        changed: Those on pages that changed, by their ids.
        unchanged: The ids of those on pages that did not.
        misfits: Entries that are no repositories such as Rota keeps.
        pages: What to remember.

    """

    changed: dict[int, Repository] = field(default_factory=dict)
    unchanged: set[int] = field(default_factory=set)
    misfits: list[Misfit] = field(default_factory=list)
    pages: list[SeenPage] = field(default_factory=list)

    def take(self, page: RepositoryPage) -> SeenPage:
        """Add what is on a page; return what to remember of it."""
        ids = [one.id for one in page.repositories]
        self.changed.update(zip(ids, page.repositories, strict=True))
        self.misfits.extend(page.misfits)
        # What does not fit is named at each sweep, so its page is read at each.
        etag = None if page.misfits else page.etag
        return SeenPage(etag=etag, ids=ids, last=page.last)

    @property
    def present(self) -> list[int] | None:
        """The ids of all that is there, or None if it is not known of one entry which it is."""
        if any(misfit.id is None for misfit in self.misfits):
            return None
        odd = {misfit.id for misfit in self.misfits if misfit.id is not None}
        return sorted(self.changed.keys() | self.unchanged | odd)


async def walk(github: GitHubSession, seen: Sequence[SeenPage], known: Collection[int]) -> Listing:
    """List all repositories of the organization, in one request a page.

    Args:
        github: Where to ask.
        seen: What the last sweep remembered.
        known: The ids that Rota has records of. A page is read again if it lacks one of them.

    Raises:
        GitHubError: A page failed; nothing is known about the rest.

    """
    listing = Listing()
    for number in range(1, MAX_PAGES + 1):
        old = seen[number - 1] if number <= len(seen) else None
        page = await github.repositories(number, _etag(old, known))
        if page is None:
            assert old is not None, "only what was seen can be unchanged"
            listing.unchanged.update(old.ids)
            listing.pages.append(old)
        elif number > 1 and not page.repositories and not page.misfits:
            listing.pages[-1] = listing.take(await _last(github, number - 1))
        else:
            listing.pages.append(listing.take(page))
        if listing.pages[-1].last:
            return listing
    raise GitHubAnswerUnusable(f"GitHub's list has more than {MAX_PAGES} pages.")


async def _last(github: GitHubSession, number: int) -> RepositoryPage:
    """Return the page before an empty one, if it is the last.

    What was on the one after it may be deleted, since it was read or since it last changed.
    """
    page = await github.repositories(number)
    if page is None or not page.last:
        raise GitHubAnswerUnusable(
            f"GitHub's list of repositories has no end: page {number + 1} of it is empty, and "
            f"page {number} says that it is not the last."
        )
    return page


def _etag(page: SeenPage | None, known: Collection[int]) -> str | None:
    if page is None or not set(page.ids) <= set(known):
        return None
    # A page that is added after the last one leaves that one as it was.
    return None if page.last else page.etag
