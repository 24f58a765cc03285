"""What GitHub answers: the errors, and those parts of its documents that Rota reads.

GitHubError
├── GitHubRefused          4xx or 3xx; another try would end the same way
├── GitHubAnswerUnusable   2xx, but not with what was asked for
└── GitHubUnavailable      no answer until the deadline, or a rate limit that lasts longer
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field, ValidationError

PAGE = 100
"""Repositories on a page; GitHub gives no more."""

SYMBOLIC_LINK = "120000"
FIRST = datetime(1900, 1, 1, tzinfo=UTC)
LAST = datetime(9000, 1, 1, tzinfo=UTC)
"""Records take instants from `FIRST` to `LAST`."""


class GitHubError(Exception):
    """GitHub did not answer what was asked."""


class GitHubRefused(GitHubError):
    """GitHub refused the request, and would refuse it again.

    Attributes:
        status: The HTTP status that it answered with.

    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class GitHubAnswerUnusable(GitHubError):
    """GitHub answered, but not with what was asked for."""


class GitHubUnavailable(GitHubError):
    """GitHub could not be reached, or a rate limit was used up, for as long as it was tried."""


def _can_be_stored(text: str) -> str:
    if "\0" in text:
        raise ValueError("The text must not hold the character NUL.")
    return text


Text = Annotated[str, AfterValidator(_can_be_stored)]


class Named(BaseModel):
    """Whatever has a repository's full name, `organization/name`."""

    full_name: Text = Field(max_length=200, pattern=r"^[^/\s]+/[^/\s]+$")

    @property
    def owner(self) -> str:
        """The organization, as GitHub spells it."""
        return self.full_name.split("/")[0]


class Repository(Named):
    """A repository as GitHub lists it; of its fields, those that Rota keeps.

    Attributes:
        id: GitHub's number for it, which stays when it is renamed.
        name: Its name within the organization.
        full_name: `organization/name`.
        description: What it is for.
        topics: Its topics.
        default_branch: The branch that is shown first.
        private: Whether not everybody sees it.
        visibility: Who sees it; older Enterprise servers tell `private` alone.
        archived: Whether GitHub keeps it read-only.
        pushed_at: When somebody last pushed to any branch; UTC.
        html_url: Its page.

    """

    id: int = Field(strict=True, gt=0, lt=2**63)
    name: Text = Field(min_length=1, max_length=100)
    description: Text | None = Field(default=None, max_length=4096)
    topics: list[Annotated[Text, Field(max_length=100)]] = Field(default=[], max_length=100)
    default_branch: Text | None = Field(default=None, max_length=255)
    private: bool = False
    visibility: Literal["public", "private", "internal"] | None = None
    archived: bool = False
    pushed_at: Annotated[AwareDatetime, Field(ge=FIRST, le=LAST)] | None = None
    html_url: Text | None = Field(default=None, max_length=2048)


@dataclass(frozen=True)
class Misfit:
    """An entry of a list that is no repository such as Rota keeps.

    Attributes:
        id: Its number, if at least that can be read.
        name: What it is called, for a log.
        reason: What does not fit.

    """

    id: int | None
    name: str
    reason: str


@dataclass(frozen=True)
class RepositoryPage:
    """A page of an organization's repositories.

    Attributes:
        repositories: Those that fit.
        misfits: Those that do not.
        etag: What tells later whether the page has changed, if GitHub gave it.
        last: Whether no page follows.

    """

    repositories: list[Repository]
    misfits: list[Misfit]
    etag: str | None
    last: bool


@dataclass(frozen=True)
class TreeFile:
    """A file in a repository.

    Attributes:
        path: Its path from the repository's root, with `/`.
        sha: The hash of its content, as git computes it.
        size: Its bytes.

    """

    path: str
    sha: str
    size: int


def read_page(answer: bytes) -> tuple[list[Repository], list[Misfit]] | None:
    """Return the repositories of a page, and what on it is none; None if it is no page at all.

    More than `PAGE` entries are none.
    """
    try:
        entries = json.loads(answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entries, list) or len(entries) > PAGE:
        return None
    repositories, misfits = [], []
    for entry in entries:
        try:
            repositories.append(Repository.model_validate(entry))
        except ValidationError as error:
            misfits.append(_misfit(entry, error))
    return repositories, misfits


def _misfit(entry: Any, error: ValidationError) -> Misfit:
    fields = entry if isinstance(entry, dict) else {}
    number = fields.get("id")
    usable = type(number) is int and 0 < number < 2**63
    name = fields.get("full_name") or fields.get("name") or "an entry without a name"
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return Misfit(
        id=number if usable else None,
        name=repr(str(name)[:100]),
        reason=f"{where}: {first['msg']}" if where else first["msg"],
    )


class _TreeEntry(BaseModel):
    path: str = Field(min_length=1, max_length=4096)
    mode: str = ""
    type: str
    sha: str = Field(pattern=r"^[0-9a-f]{40}([0-9a-f]{24})?$")
    size: int = Field(default=0, ge=0)


class Tree(BaseModel):
    """All entries of a repository at one commit, as GitHub lists them."""

    tree: list[_TreeEntry]
    truncated: bool = False

    @property
    def files(self) -> list[TreeFile]:
        """Its files; a symbolic link is none, and neither is a submodule."""
        return [
            TreeFile(entry.path, entry.sha, entry.size)
            for entry in self.tree
            if entry.type == "blob" and entry.mode != SYMBOLIC_LINK
        ]


class Installation(BaseModel):
    """An App's installation in an organization."""

    id: int = Field(gt=0)


class InstallationToken(BaseModel):
    """A token that an App signs in with, for an hour."""

    token: str = Field(min_length=1, pattern=r"^[\x21-\x7e]+$", repr=False)
    expires_at: AwareDatetime
