"""Commands of the shell, each in a process group of its own that does not outlive its caller."""

import asyncio
import codecs
import os
import signal
from asyncio.subprocess import STDOUT, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
from prefect import get_run_logger

SHELL = "/bin/sh"

TAIL_BYTES = 64 * 1024
LINE_CHARACTERS = 4000
"""Longer lines are cut into several."""

LINES = 10_000
"""Lines of output that go to a run's log. Prefect keeps each as a row of its database."""

GRACE_SECONDS = 10.0
"""From SIGTERM to SIGKILL."""

LAST_WORDS_SECONDS = 1.0
"""How long to read on once the command has ended: what has left its group may hold its output."""

INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")
"""What a command gets of this process's environment. The rest may hold secrets."""

# The standard input is a pipe that only the caller can write to. When that dies, whatever it dies
# of, the pipe ends, and the one that reads it kills the group.
_LAUNCH = """
exec 3<&0
{ trap '' HUP INT QUIT TERM; read -r _; kill -KILL -$$; } <&3 >/dev/null 2>&1 &
exec 3<&- </dev/null
exec "$0" -c "$1"
"""


class CannotBegin(Exception):
    """A command cannot be started; the message names what to change."""


@dataclass(frozen=True)
class Ended:
    """How a command has ended.

    Attributes:
        exit_code: The exit code; 128 and the signal's number for one that a signal ended.
        tail: The last of what it wrote as text, at most 64 KiB.
        timed_out: Whether it was ended for its time limit.

    """

    exit_code: int
    tail: str
    timed_out: bool = False


class Log:
    """The run's log, as far as a command may fill it."""

    def __init__(self) -> None:
        self._logger = get_run_logger()
        self._count = 0

    def line(self, line: str) -> None:
        """Log a line of output."""
        self._count += 1
        if self._count <= LINES:
            self._logger.info("%s", line)
        elif self._count == LINES + 1:
            self._logger.warning(
                "The log ends here, after %d lines; the last 64 KiB of all are kept.", LINES
            )


async def run(
    command: str,
    *,
    environment: Mapping[str, str] | None = None,
    directory: str | None = None,
    timeout_seconds: float | None = None,
    on_line: Callable[[str], object] = lambda line: None,
    on_interrupted: Callable[[Ended], Awaitable[object]] | None = None,
    grace_seconds: float = GRACE_SECONDS,
) -> Ended:
    """Run a command to its end, and end whatever it has left in its process group.

    It ends with its caller: at once if the process is killed, and by SIGTERM, and after
    `grace_seconds` SIGKILL, if the task is cancelled.

    Args:
        command: What `/bin/sh -c` is given. Its standard input is empty; its two outputs are one.
        environment: Its variables, beside `PATH`, `HOME`, `LANG`, `LC_ALL` and `TZ` of this
            process.
        directory: Where it runs; None for this process's working directory.
        timeout_seconds: After how long it is ended, as by a cancellation.
        on_line: Is called with each line as it comes, without its end.
        on_interrupted: Is awaited when the task was cancelled, with how the command ended then.
        grace_seconds: How long it has to end by itself.

    Raises:
        CannotBegin: The directory or the shell cannot be used.

    """
    output = _Output(on_line)
    async with _begun(command, environment or {}, directory, output) as process:
        timed_out = False
        try:
            try:
                await asyncio.wait_for(process.wait(), timeout_seconds)
            except TimeoutError:
                timed_out = True
                await _end(process, grace_seconds)
            await _read_to_the_end(process, output)
        except asyncio.CancelledError:
            # anyio repeats a cancellation until it is heeded; here it has been.
            with anyio.CancelScope(shield=True):
                await _end(process, grace_seconds)
                await _read_to_the_end(process, output)
                if on_interrupted is not None:
                    await on_interrupted(_ended(process, output, timed_out))
            raise
        return _ended(process, output, timed_out)


@asynccontextmanager
async def _begun(
    command: str, environment: Mapping[str, str], directory: str | None, output: "_Output"
) -> AsyncIterator[Process]:
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    lifeline, held = os.pipe()
    source, sink = os.pipe()
    reading = await asyncio.get_running_loop().connect_read_pipe(
        lambda: output, os.fdopen(source, "rb", 0)
    )
    try:
        try:
            process = await asyncio.create_subprocess_exec(
                *(SHELL, "-c", _LAUNCH, SHELL, command),
                stdin=lifeline,
                stdout=sink,
                stderr=STDOUT,
                start_new_session=True,
                cwd=directory,
                env={**inherited, **environment},
            )
        except (OSError, ValueError) as error:
            raise CannotBegin(_reason(error, directory)) from error
        finally:
            os.close(lifeline)
            os.close(sink)
        try:
            yield process
        finally:
            _signal(process, signal.SIGKILL)
    finally:
        os.close(held)
        reading[0].close()


def _reason(error: Exception, directory: str | None) -> str:
    if isinstance(error, OSError) and directory is not None and error.filename == directory:
        return (
            f"directory: {directory!r} cannot be used on this worker ({error.strerror}); make it, "
            "or name another"
        )
    return f"command: {SHELL} cannot be started with it: {error}"


async def _end(process: Process, grace_seconds: float) -> None:
    """End the group: by SIGTERM, and if that does not do, or does not do in time, by SIGKILL."""
    if process.returncode is None:
        _signal(process, signal.SIGTERM)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), grace_seconds)
    _signal(process, signal.SIGKILL)
    await process.wait()


async def _read_to_the_end(process: Process, output: "_Output") -> None:
    _signal(process, signal.SIGKILL)  # what it has left behind in its group
    with suppress(TimeoutError):
        await asyncio.wait_for(output.ended.wait(), LAST_WORDS_SECONDS)
    output.finish()


def _signal(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _ended(process: Process, output: "_Output", timed_out: bool) -> Ended:
    code = process.returncode
    assert code is not None
    return Ended(128 - code if code < 0 else code, output.tail, timed_out)


class _Output(asyncio.Protocol):
    """What a command writes: its lines as they come, and the last of it."""

    def __init__(self, on_line: Callable[[str], object]) -> None:
        self.ended = asyncio.Event()
        self._on_line = on_line
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._line = ""
        self._tail = b""

    def data_received(self, data: bytes) -> None:
        """Take what was read."""
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        *lines, rest = (self._line + self._decode(data)).split("\n")
        for line in lines:
            self._tell(line)
        while len(rest) > LINE_CHARACTERS:
            self._on_line(_clean(rest[:LINE_CHARACTERS]))
            rest = rest[LINE_CHARACTERS:]
        self._line = rest

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that nobody writes any more."""
        self.ended.set()

    def finish(self) -> None:
        """Take what stands without an end as the last line."""
        rest = self._line + self._decode(b"", True)
        self._line = ""
        if rest:
            self._tell(rest)

    @property
    def tail(self) -> str:
        """The last of it, without what would be half a character."""
        text = _clean(self._tail.decode(errors="replace"))
        return text.encode()[-TAIL_BYTES:].decode(errors="ignore")

    def _tell(self, line: str) -> None:
        line = line.removesuffix("\r")
        for start in range(0, len(line) or 1, LINE_CHARACTERS):
            self._on_line(_clean(line[start : start + LINE_CHARACTERS]))


def _clean(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")  # no log or database takes it
