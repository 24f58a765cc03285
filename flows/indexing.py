"""Keeps the documents of projects, in passages, as they stand in their repositories.

A project's turn:
1. If nobody has pushed to it since its last turn, and the records hold what that turn wrote, that
   was all.
2. Its files are listed, and its documents chosen among them.
3. Those whose blob is not the one of the last turn are read, and split and embedded if their
   content is not what the records hold.
4. They are written, with new addresses where the repository was renamed, and documents that are no
   longer there go away.
5. If the document that leads the project has changed, so does the project's summary.
6. What was seen is remembered in a checkpoint, so that a turn which is cut short is taken again.
"""

import asyncio
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote
from uuid import UUID

from prefect.blocks.abstract import LoggerOrAdapter
from pydantic import BaseModel, ValidationError

from blocks.embedders import EmbedderAnswerUnusable, EmbedderRefused, EmbedderUnavailable
from blocks.github_answers import GitHubAnswerUnusable, GitHubRefused, TreeFile
from blocks.github_session import GitHubSession
from blocks.records import RecordsRefused, TenantRecords
from flows.chunks import Chunk, split
from flows.document_files import MOST_BYTES, SPEC, chosen, text_of
from flows.embedding import Named
from flows.outline import Markdown
from flows.summary import summarize

BATCH_BYTES = 4 << 20

# The API takes 8 MiB at once. With pgvector's longest vectors, 200 of them are 4.4 MB.
MOST_VECTORS = 200

NAMED = 20
"""Documents that a line of the log names."""

TOO_MUCH = frozenset({400, 413, 422})
"""Statuses of a refusal that is about what was sent, and not about who sent it."""


class Project(BaseModel):
    """A project, of whose record these are the fields that matter here."""

    id: UUID
    name: str
    full_name: str
    default_branch: str
    pushed_at: str | None = None
    url: str | None = None
    summary: str | None = None

    @property
    def state(self) -> str | None:
        """What changes whenever its documents may have; None if that is not known."""
        return self.pushed_at and f"{self.full_name} {self.default_branch} {self.pushed_at}"

    def uri(self, path: str) -> str:
        """Return where a document can be read."""
        if self.url is None:
            return f"repo://{quote(self.full_name)}/{quote(path)}"
        return f"{self.url.rstrip('/')}/blob/{quote(self.default_branch)}/{quote(path)}"


class _Blob(BaseModel):
    """A file as Git knows it, and the content that was read of it."""

    sha: str
    content_hash: str


class _Seen(BaseModel):
    """What the project's last turn saw, and what it left in the records."""

    state: str | None = None
    blobs: dict[str, _Blob] = {}
    summary_of: str | None = None
    summary: str | None = None


class _Stored(BaseModel):
    """A document as the records hold it."""

    project_id: UUID
    path: str
    title: str | None
    uri: str | None
    content_hash: str
    embedder: str | None


class _HeldBack(Exception):
    """An answer makes so little sense that nothing is done about it."""


PROJECTS_OWN = (
    EmbedderAnswerUnusable,
    EmbedderUnavailable,
    GitHubAnswerUnusable,
    GitHubRefused,
    RecordsRefused,
    ValueError,
    _HeldBack,
)
"""Errors that are about one project, and not about all."""


@dataclass(frozen=True)
class Indexer:
    """Takes projects' turns.

    Attributes:
        records: The tenant's records.
        github: Where the documents are.
        named: What embeds them, if something does.
        log: Names what is left out.
        allow_mass_change: Whether a project may lose all of its documents at once, because its
            repository is empty.
        counts: What was done so far.

    """

    records: TenantRecords
    github: GitHubSession
    named: Named | None
    log: LoggerOrAdapter
    allow_mass_change: bool = False
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def embedder_name(self) -> str | None:
        """The name that documents keep of the embedder."""
        return self.named.name if self.named else None

    async def index(self, projects: Sequence[Project], at_once: int) -> None:
        """Take the turns of projects; what goes wrong with one of them does not stop the others.

        Args:
            projects: The projects.
            at_once: How many are at it at the same time.

        """
        stored = await self._stored()
        waiting = iter(projects)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(self._work(waiting, stored))
        except ExceptionGroup as several:
            # The first stopped the others, and is all that there is to say.
            raise several.exceptions[0] from None

    async def _stored(self) -> dict[UUID, dict[str, _Stored]]:
        found: dict[UUID, dict[str, _Stored]] = {}
        async for page in self.records.pages("documents"):
            for row in page:
                one = _Stored.model_validate(row)
                found.setdefault(one.project_id, {})[one.path] = one
        return found

    async def _work(
        self, waiting: Iterator[Project], stored: Mapping[UUID, Mapping[str, _Stored]]
    ) -> None:
        for project in waiting:
            self.counts["projects"] += 1
            try:
                await _Turn(self, project, stored.get(project.id, {})).take()
            except PROJECTS_OWN as error:
                self.counts["projects_failed"] += 1
                self.log.error(
                    "%s: %s", project.full_name, error, extra={"action": "project_failed"}
                )


class _Turn:
    def __init__(self, indexer: Indexer, project: Project, stored: Mapping[str, _Stored]) -> None:
        self._indexer = indexer
        self._records = indexer.records
        self._counts = indexer.counts
        self._project = project
        self._stored = stored
        self._batch: list[dict[str, Any]] = []
        self._batch_bytes = 0
        # The first that is read, which mostly is the one that leads.
        self._read: dict[str, Markdown] = {}
        self._kept: dict[str, _Blob] = {}
        self._left_out: dict[str, str] = {}

    async def take(self) -> None:
        seen = await self._seen()
        project = self._project
        # A document may have lost its place, its embedder or its content since it was written.
        blobs = {path: blob for path, blob in seen.blobs.items() if self._is_ours(path, blob)}
        intact = blobs == seen.blobs and blobs.keys() == self._stored.keys()
        in_place = all(one.uri == project.uri(path) for path, one in self._stored.items())
        if intact and in_place and self._is_as_seen(seen):
            self._counts["projects_unchanged"] += 1
            return
        listed = await self._indexer.github.tree(project.full_name, project.default_branch)
        if self._stored and not listed and not self._indexer.allow_mass_change:
            raise _HeldBack(
                f"GitHub lists no file on {project.default_branch!r}; its {len(self._stored)} "
                "documents are kept as they are. If it is indeed empty, run this once with the "
                "parameter `allow_mass_change` set to true."
            )
        files, self._left_out = chosen(listed)
        for file in files:
            known = blobs.get(file.path)
            if known and known.sha == file.sha:
                self._leave(file.path, known)
            else:
                await self._renew(file)
        await self._write()
        self._tell_left_out()
        kept = {path: blob for path, blob in self._kept.items() if path not in self._left_out}
        if self._stored.keys() - kept.keys():
            await self._put([], present=list(kept))
        now = _Seen(state=project.state, blobs=kept)
        now.summary_of, now.summary = await self._summarize(kept, seen)
        if now != seen:
            await self._records.put("checkpoints", self._key, body={"value": now.model_dump()})

    @property
    def _key(self) -> str:
        return f"rag/{self._project.id}"

    def _is_as_seen(self, seen: _Seen) -> bool:
        project = self._project
        state, summary = project.state, project.summary
        return bool(state) and state == seen.state and summary == seen.summary

    def _is_ours(self, path: str, blob: _Blob) -> bool:
        stored = self._stored.get(path)
        return (
            stored is not None
            and stored.embedder == self._indexer.embedder_name
            and stored.content_hash == blob.content_hash
        )

    async def _seen(self) -> _Seen:
        try:
            found = await self._records.get("checkpoints", self._key)
        except RecordsRefused as refused:
            if refused.status != 404:
                raise
            return _Seen()
        try:
            return _Seen.model_validate(found["value"])
        except ValidationError:
            # Of another version, perhaps; then everything is looked at again.
            return _Seen()

    def _tell_left_out(self) -> None:
        if not self._left_out:
            return
        number = len(self._left_out)
        self._counts["documents_left_out"] += number
        named = [f"{path!r} ({why})" for path, why in list(self._left_out.items())[:NAMED]]
        self._indexer.log.warning(
            "%s: %d documents are left out: %s%s",
            self._project.full_name,
            number,
            ", ".join(named),
            f" and {number - NAMED} more" if number > NAMED else "",
            extra={"action": "documents_left_out"},
        )

    # -- reading

    async def _renew(self, file: TreeFile) -> None:
        """Read a document, and prepare it to be written if the records hold another."""
        content = await self._content(file.path)
        text = text_of(content)
        if content is None or text is None:
            self._left_out[file.path] = "it is no text of at most 1 MiB"
            return
        document = Markdown(text)
        if file.path != SPEC and not self._read:
            self._read[file.path] = document
        blob = _Blob(sha=file.sha, content_hash=f"sha256:{hashlib.sha256(content).hexdigest()}")
        if self._is_ours(file.path, blob):
            self._leave(file.path, blob)
            return
        self._kept[file.path] = blob
        await self._add(await self._document(file.path, document, blob.content_hash))

    def _leave(self, path: str, blob: _Blob) -> None:
        """Leave a document as it is; if it has moved, prepare its address to be written."""
        self._kept[path] = blob
        stored, uri = self._stored[path], self._project.uri(path)
        if stored.uri == uri:
            self._counts["documents_unchanged"] += 1
            return
        values = stored.model_dump(include={"path", "title", "content_hash", "embedder"})
        self._batch.append({**values, "uri": uri, "chunks": None})

    async def _add(self, document: dict[str, Any]) -> None:
        size = len(json.dumps(document))
        if self._batch_bytes + size > BATCH_BYTES:
            await self._write()
        self._batch.append(document)
        self._batch_bytes += size

    async def _content(self, path: str) -> bytes | None:
        project = self._project
        try:
            return await self._indexer.github.file(
                project.full_name, path, project.default_branch, MOST_BYTES
            )
        except GitHubAnswerUnusable:
            return None

    async def _document(self, path: str, document: Markdown, digest: str) -> dict[str, Any]:
        # A large one takes seconds, in which no other flow would run.
        title, chunks = await asyncio.to_thread(_passages, path, document)
        vectors = await self._vectors(path, title, chunks)
        self._counts["chunks"] += len(chunks)
        return {
            "path": path,
            "title": title,
            "uri": self._project.uri(path),
            "content_hash": digest,
            "embedder": self._indexer.embedder_name,
            "chunks": [
                {
                    "position": position,
                    "heading": chunk.heading,
                    "start_line": chunk.start_line,
                    "end_line": chunk.end_line,
                    "text": chunk.text,
                    "embedding": vectors[position] if position < len(vectors) else None,
                }
                for position, chunk in enumerate(chunks)
            ],
        }

    async def _vectors(self, path: str, title: str, chunks: Sequence[Chunk]) -> list[list[float]]:
        """Return vectors of the passages from the first on; for some there may be none."""
        if self._indexer.named is None or not chunks:
            return []
        texts = [
            "\n\n".join(part for part in (title, chunk.heading, chunk.text) if part)
            for chunk in chunks[:MOST_VECTORS]
        ]
        try:
            vectors = await self._indexer.named.embed(texts)
        except EmbedderRefused as refused:
            if refused.status not in TOO_MUCH:
                raise
            self._counts["documents_not_embedded"] += 1
            self._indexer.log.warning(
                "%s: %r is found by its words only: %s", self._project.full_name, path, refused
            )
            return []
        self._counts["vectors"] += len(vectors)
        # PostgreSQL keeps about seven digits.
        return [[round(number, 7) for number in vector] for vector in vectors]

    # -- writing

    async def _write(self) -> None:
        """Write what has gathered; what the records refuse is left out."""
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if not batch:
            return
        try:
            await self._put(batch)
        except RecordsRefused as refused:
            if refused.status not in TOO_MUCH:
                raise
            for document in batch:
                await self._write_alone(document)

    async def _write_alone(self, document: dict[str, Any]) -> None:
        try:
            await self._put([document])
        except RecordsRefused as refused:
            if refused.status not in TOO_MUCH:
                raise
            self._left_out[document["path"]] = str(refused)

    async def _put(
        self, documents: Sequence[dict[str, Any]], present: Sequence[str] | None = None
    ) -> None:
        body = {"documents": documents, "present": present}
        written = await self._records.put("projects", str(self._project.id), "documents", body=body)
        for what in ("created", "updated", "gone"):
            self._counts[f"documents_{what}"] += len(written[what])

    async def _summarize(
        self, kept: Mapping[str, _Blob], seen: _Seen
    ) -> tuple[str | None, str | None]:
        """Keep the project's summary; return what it is of, to know it again, and itself."""
        lead = next((path for path in kept if path != SPEC), None)
        of = f"{lead}@{kept[lead].sha}" if lead else None
        if of == seen.summary_of and self._project.summary == seen.summary:
            return of, seen.summary
        summary = await asyncio.to_thread(_summary, await self._lead(lead)) if lead else None
        if summary != self._project.summary:
            await self._records.patch("projects", str(self._project.id), body={"summary": summary})
            self._counts["summaries"] += 1
        return of, summary

    async def _lead(self, path: str) -> Markdown:
        if path in self._read:
            return self._read[path]
        return Markdown(text_of(await self._content(path)) or "")


_one_at_a_time = threading.Lock()
"""A document of 1 MiB may take seconds, and 200 MB."""


def _passages(path: str, document: Markdown) -> tuple[str, list[Chunk]]:
    with _one_at_a_time:
        title = None if path == SPEC else document.title
        chunks = split(document.text if path == SPEC else document)
    return title or path, [chunk for chunk in chunks if chunk.new.strip()]


def _summary(document: Markdown) -> str | None:
    with _one_at_a_time:
        return summarize(document)
