"""Where the time of Prefect's server goes, by py-spy, which looks at it from outside."""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.processes import BenchmarkError
from benchmarks.servers import Servers

TOP = 30


@dataclass
class Profile:
    """What was seen, as text; empty if nobody looked."""

    text: str = ""


@contextmanager
def of(servers: Servers, program: str, wanted: bool) -> Iterator[Profile]:
    """Look at the server while the block lasts, if it is `wanted`.

    Raises:
        BenchmarkError: py-spy is not there, or may not look.
    """
    profile = Profile()
    if not wanted:
        yield profile
        return
    stacks = servers.directory / "server-profile.txt"
    command = [program, "record", "--pid", str(servers.server_pid), "--format", "raw"]
    # The server is not halted for each look; a few of them see a stack that is changing.
    command += ["--output", str(stacks), "--rate", "200", "--nonblocking", "--duration", "3600"]
    log = servers.directory / "py-spy.log"
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
    except FileNotFoundError:
        raise BenchmarkError("py-spy is not installed; name it by --py-spy") from None
    try:
        yield profile
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    if not stacks.exists():
        raise BenchmarkError(f"py-spy saw nothing: {log.read_text()[-1000:]}")
    profile.text = summary(stacks.read_text())


def summary(stacks: str) -> str:
    """Return where the samples of collapsed stacks were: in which function, and below which.

    Only those of the thread that serves count: the others mostly wait for it.
    """
    own: Counter[str] = Counter()
    below: Counter[str] = Counter()
    for line in stacks.splitlines():
        stack, _, samples = line.rpartition(" ")
        frames = [frame.rpartition(":")[0] or frame for frame in stack.split(";")]
        if not any("uvicorn/server.py" in frame for frame in frames):
            continue
        own[frames[-1]] += int(samples)
        for frame in set(frames):
            below[frame] += int(samples)
    total = max(own.total(), 1)
    # What stands below everything says nothing.
    below = Counter({frame: n for frame, n in below.items() if n < 0.7 * total})
    parts = [f"{own.total()} samples of the server's main thread."]
    for title, found in (("In", own), ("In and below", below)):
        parts += ["", f"{title}:"]
        parts += [f"{n / total:7.1%}  {frame})" for frame, n in found.most_common(TOP)]
    return "\n".join(parts)
