"""The provisioner, another program that sets servers up; Redis streams lead to it and back.

QueueError
├── QueueRefused       Redis does not let us in, or do it; another try would end the same way
└── QueueUnavailable   Redis could not be reached, or had no time
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from prefect.blocks.core import Block
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    SecretStr,
    ValidationError,
)

if TYPE_CHECKING:
    from redis.asyncio import Redis

AT_ONCE = 100
"""Results in one batch."""

KEPT_ASIDE = 10_000
"""How many of the entries that are no results are kept, about."""

KEPT_ASIDE_SECONDS = 7 * 86_400
"""How long it is remembered that an entry is kept, so that other groups do not keep it again."""

MOST_BYTES = 64 << 10
LAST_SECOND = 221_845_392_000
"""The beginning of the year 9000, in seconds since 1970; no record is later."""

ERROR_CHARACTERS = 2000
CONSUMER = "rota"


class QueueError(Exception):
    """The queue of the provisioner did not do what was asked."""


class QueueRefused(QueueError):
    """Redis refused the command, and would refuse it again."""


class QueueUnavailable(QueueError):
    """Redis could not be reached, or had no time."""


class Request(BaseModel):
    """A request to set a server up: version 1 of what the provisioner reads.

    Attributes:
        version: The version of this shape.
        correlation_id: What asked for it; the provisioner puts it into its log.
        timestamp: When it was asked for.
        request_id: Tells two requests apart; the same request may arrive twice.
        callback_stream: The stream that the result is to go to.
        server_handle: What the server is called in the records.
        force_reinstall: Whether to install it anew even where it works.
        is_recovery: Whether it worked before.

    """

    version: Literal["1"] = "1"
    correlation_id: str
    timestamp: AwareDatetime
    request_id: UUID
    callback_stream: str
    server_handle: str
    force_reinstall: bool = False
    is_recovery: bool = False


def _shortened(value: Any) -> Any:
    # No database takes the character 0, and what else is said is worth keeping.
    return value[:ERROR_CHARACTERS].replace("\0", "�") if isinstance(value, str) else value


def _none_unless_usable(value: Any) -> str | None:
    # A zone such as `%eth0` says something on one machine only.
    try:
        return str(ip_address(value)) if isinstance(value, str) and "%" not in value else None
    except ValueError:
        return None


class Result(BaseModel):
    """What became of a request, as the provisioner says it.

    Attributes:
        request_id: The request's.
        server_handle: The server's.
        status: Whether the server is set up.
        error: What went wrong, at most 2,000 characters of it.
        server_ip: The server's address; None where what is said is none.

    """

    request_id: UUID
    server_handle: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=63)
    status: Literal["success", "failed", "error"]
    error: Annotated[str | None, BeforeValidator(_shortened)] = None
    server_ip: Annotated[str | None, BeforeValidator(_none_unless_usable)] = None


@dataclass(frozen=True)
class Arrived:
    """An entry of the stream of results.

    Attributes:
        id: The entry's id in the stream.
        at: When Redis took it, UTC.
        raw: What stood in it.
        result: The result, or None where it holds none.
        problem: Why it holds none, or an empty text.

    """

    id: str
    at: datetime
    raw: bytes
    result: Result | None
    problem: str = ""


def _holds_no_secret(url: str) -> str:
    parts = urlsplit(url)
    try:
        _ = parts.port
    except ValueError:
        # Its own text repeats what stands in the place of the port.
        raise ValueError("The port must be a number, 0 to 65535.") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("The address must not hold a user or a password; use the fields.")
    if parts.query or parts.fragment:
        raise ValueError("The address must end with its path, before any `?` or `#`.")
    return url


class ProvisionerQueue(Block):
    """Hands servers to the provisioner through Redis, 6.2 or newer, and takes its results.

    Attributes:
        url: Where Redis is: `redis://host:6379/0`, `rediss://` with TLS, or `unix:///path`,
            without credentials.
        username: The user of Redis, if it has users.
        password: The password of Redis, if it has one.
        queue: The stream that requests go to.
        results: The stream that results come from. What is no result is kept in a stream of this
            name and `:garbage`, the latest 10,000 or so.
        answer_seconds: How long to wait for a connection, and for each answer, in seconds.

    Example:
        Load a stored queue and see what has come back:
        ```python
        from blocks import ProvisionerQueue

        queue = ProvisionerQueue.load("BLOCK_NAME")
        async with queue.opened() as streams:
            async for batch in streams.results("my-group"):
                print([arrived.result for arrived in batch])
        ```

    """

    _block_type_name = "Provisioner Queue"
    _block_type_slug = "provisioner-queue"
    _logo_url = HttpUrl(
        "https://raw.githubusercontent.com/PrefectHQ/prefect/420d0d6a78bb6df1fc18bcf188fdad43c1d22ea9"
        "/assets/block-logos/webhook.png"
    )
    _documentation_url = HttpUrl("https://docs.prefect.io/v3/concepts/blocks")

    # A bad address must not be repeated in the error that says so; a password may be in it.
    model_config = ConfigDict(hide_input_in_errors=True)

    url: Annotated[str, AfterValidator(_holds_no_secret)] = Field(
        title="URL",
        pattern=r"^(rediss?://[^\s/]+(/\d*)?|unix:///\S+)$",
        description="Where Redis is, for example `redis://redis.example.com:6379/0`.",
    )
    username: str | None = Field(default=None, description="The user, if Redis has users.")
    password: SecretStr | None = Field(default=None, description="The password, if Redis has one.")
    queue: str = Field(
        default="provisioner:queue", min_length=1, description="The stream that requests go to."
    )
    results: str = Field(
        default="provisioner:results",
        min_length=1,
        description="The stream that results come from.",
    )
    answer_seconds: float = Field(
        default=5,
        gt=0,
        description="How long to wait for a connection, and for each answer, in seconds.",
    )

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Streams]:
        """Open the streams, and see that Redis answers.

        Raises:
            QueueError: It does not.

        """
        # Few processes need it, and this module is imported by every process of Prefect's.
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import ExponentialBackoff

        password = self.password.get_secret_value() if self.password else None
        redis = Redis.from_url(
            self.url,
            username=self.username,
            password=password,
            socket_timeout=self.answer_seconds,
            socket_connect_timeout=self.answer_seconds,
            # An entry that is added twice holds the same request, so that trying again is safe.
            retry=Retry(ExponentialBackoff(cap=1, base=0.1), 3),
            protocol=2,
        )
        secrets = [one for one in (self.username, password) if one]
        streams = Streams(redis, self.url, self.queue, self.results, secrets)
        try:
            await streams.check()
            yield streams
        finally:
            await redis.aclose()


class Streams:
    """The streams to the provisioner and back; `ProvisionerQueue.opened` opens them.

    Every call raises `QueueRefused` or `QueueUnavailable`.
    """

    def __init__(
        self, redis: Redis, url: str, queue: str, results: str, secrets: Sequence[str]
    ) -> None:
        self._redis = redis
        self._secrets = sorted(secrets, key=len, reverse=True)
        self._url = url
        self._queue = queue
        self._results = results

    @property
    def callback(self) -> str:
        """The stream that results come from."""
        return self._results

    async def check(self) -> None:
        """See that Redis answers."""
        with self._asking():
            await self._redis.ping()

    async def publish(self, request: Request) -> None:
        """Put a request into the queue."""
        with self._asking():
            await self._redis.xadd(self._queue, {"data": request.model_dump_json()})

    async def results(
        self, group: str, *, abandoned_seconds: float = 60
    ) -> AsyncIterator[list[Arrived]]:
        """Yield what has arrived for a group and is not acknowledged yet, in batches.

        Every group gets every entry, also those of before its first call. An entry is given to
        one caller at a time.

        Args:
            group: The name of the group.
            abandoned_seconds: An entry that somebody took, and did not acknowledge for so many
                seconds, is given again.

        """
        await self._join(group)
        answer: Any
        cursor = "0-0"
        while True:
            with self._asking():
                answer = await self._redis.xautoclaim(
                    self._results,
                    group,
                    CONSUMER,
                    min_idle_time=round(abandoned_seconds * 1000),
                    start_id=cursor,
                    count=AT_ONCE,
                )
            cursor = answer[0].decode()
            if batch := _arrived(answer[1]):
                yield batch
            if cursor == "0-0":
                break
        while True:
            with self._asking():
                answer = await self._redis.xreadgroup(
                    group, CONSUMER, {self._results: ">"}, count=AT_ONCE
                )
            batch = _arrived(answer[0][1]) if answer else []
            if not batch:
                return
            yield batch

    async def acknowledge(self, group: str, entries: Sequence[Arrived]) -> None:
        """Say that entries have been dealt with."""
        if entries:
            with self._asking():
                await self._redis.xack(self._results, group, *[one.id for one in entries])

    async def disown(self, group: str, entry: Arrived, problem: str) -> bool:
        """Acknowledge an entry that concerns nobody of a group; return whether it is kept aside.

        It is, once every group that reads the stream has said so.
        """
        mark = f"{self._results}:unknown:{entry.id}"
        with self._asking():
            async with self._redis.pipeline(transaction=True) as commands:
                commands.sadd(mark, group)
                commands.expire(mark, KEPT_ASIDE_SECONDS)
                commands.smembers(mark)
                commands.xinfo_groups(self._results)
                *_, said, groups = await commands.execute()
        everybody = all(one["name"] in said for one in groups)
        if everybody:
            await self.keep_aside(group, entry, problem)
        else:
            await self.acknowledge(group, [entry])
        return everybody

    async def keep_aside(self, group: str, entry: Arrived, problem: str) -> None:
        """Put an entry that is of no use where somebody can look at it, and acknowledge it."""
        aside = f"{self._results}:garbage"
        mark = f"{aside}:{entry.id}"
        with self._asking():
            kept = await self._redis.exists(mark)
            async with self._redis.pipeline(transaction=True) as commands:
                if not kept:
                    fields = {
                        "entry": entry.id,
                        "problem": problem[:ERROR_CHARACTERS],
                        "data": entry.raw[:MOST_BYTES],
                    }
                    commands.xadd(aside, fields, maxlen=KEPT_ASIDE, approximate=True)  # type: ignore[arg-type]
                    commands.set(mark, 1, ex=KEPT_ASIDE_SECONDS)
                commands.xack(self._results, group, entry.id)
                await commands.execute()

    async def _join(self, group: str) -> None:
        from redis.exceptions import ResponseError

        with self._asking():
            try:
                await self._redis.xgroup_create(self._results, group, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    @contextmanager
    def _asking(self) -> Iterator[None]:
        from redis import exceptions

        refusals = (
            exceptions.AuthenticationError,
            exceptions.AuthorizationError,
            exceptions.ResponseError,
        )
        try:
            yield
        except (exceptions.RedisError, OSError) as error:
            # What goes wrong while it connects is the cause of an error of the connection.
            if isinstance(error, refusals) or isinstance(error.__cause__, refusals):
                raise QueueRefused(
                    f"Redis at {self._url} refused what was asked: {self._masked(error)}. "
                    "See to the block's username and password, and to what they may do."
                ) from None
            raise QueueUnavailable(
                f"Redis at {self._url} cannot be used: "
                f"{type(error).__name__}: {self._masked(error)}"
            ) from None

    def _masked(self, error: Exception) -> str:
        """Return what an error says, without the secrets that Redis may repeat."""
        # What a command began with is cut somewhere, perhaps in the midst of a secret.
        said = str(error).partition(", with args beginning with")[0]
        for secret in self._secrets:
            said = said.replace(secret, "**********")
        return said


def _arrived(entries: Sequence[tuple[bytes | None, Mapping[bytes, bytes] | None]]) -> list[Arrived]:
    # An entry that was trimmed from the stream before it was acknowledged has no fields.
    return [
        _parsed(number.decode(), fields)
        for number, fields in entries
        if number is not None and fields is not None
    ]


def _parsed(number: str, fields: Mapping[bytes, bytes]) -> Arrived:
    # Whoever adds an entry may choose its number, of 64 bits.
    at = datetime.fromtimestamp(min(int(number.partition("-")[0]) // 1000, LAST_SECOND), UTC)
    raw = fields.get(b"data")
    if raw is None:
        names = b" ".join(fields)
        return Arrived(number, at, names, None, "It has no field `data`, but those named.")
    try:
        return Arrived(number, at, raw, Result.model_validate_json(raw))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        faults = [
            ": ".join(filter(None, [".".join(map(str, one["loc"])), one["msg"]])) for one in found
        ]
        return Arrived(number, at, raw, None, "; ".join(faults[:5]))
