"""A host's vital signs: the one command that asks for them, and what its answer says."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeAlias

DISK_DEGRADED_PERCENT = 90
DISK_CRITICAL_PERCENT = 95
MEMORY_PERCENT = 90
LOAD_PER_CORE = 4
DISKS = 16
"""So many of a host's disks, the fullest first, are looked at."""
MOUNT_BYTES = 80
"""Of a mount's name; whatever a host says, its check then is at most about 16 KiB as JSON."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# It holds neither single quotes nor line ends, exclamation marks or backslashes, so every login
# shell hands it to `sh` as it stands. A dead network disk holds `df` up, so that comes last, and
# once more without network disks.
_SCRIPT = """
exec 2>/dev/null;
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin:/usr/bin:/bin";
limit=; timeout 1 true && limit="timeout 5";
echo "[clock]"; date "+%s %N";
echo "[load]"; cat /proc/loadavg;
echo "[cores]"; nproc || grep -c ^processor /proc/cpuinfo;
echo "[memory]"; cat /proc/meminfo;
echo "[uptime]"; cat /proc/uptime;
echo "[docker]";
if command -v dockerd >/dev/null; then
version=$($limit docker version --format "{{.Server.Version}}");
if [ -n "$version" ]; then echo active;
elif command -v systemctl >/dev/null; then systemctl is-active docker;
elif [ "$(id -u)" = 0 ]; then echo inactive;
else echo unknown; fi;
else echo absent; fi;
echo "[disks]"; $limit df -P -k || $limit df -P -k -l;
echo "[end]"
"""
COMMAND = f"exec sh -c '{' '.join(_SCRIPT.split())}'"
"""What is run on a host. Nothing from outside is in it."""

SECTIONS = ("clock", "load", "cores", "memory", "uptime", "docker", "disks", "end")

# Sources that `df` lists and that are no disks; those of a snap or a CD are full by nature.
_NO_DISKS = re.compile(
    r"(tmpfs|devtmpfs|udev|dev|run|shm|none|proc|sysfs|cgroup2?|cgmfs|efivarfs|mqueue|ramfs|rootfs"
    r"|squashfs|overlay|overlayfs|fuse\S*|snapfuse|lxcfs|gvfsd\S*|/dev/loop\d+|/dev/sr\d+)"
)
_NO_MOUNTS = re.compile(
    r"/(proc|sys|dev|run|snap|var/lib/docker|var/lib/containerd|var/lib/kubelet)/"
)
_DOCKER_STATES = {"active", "reloading", "activating", "deactivating", "inactive", "failed"}

Level: TypeAlias = Literal["degraded", "critical"]


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a host that can be reached.

    Attributes:
        kind: What kind of incident it makes, such as `resource_exhausted`.
        level: How bad it is.
        text: A sentence for people.
        about: What on the host it is about, such as `disk /var`; with `kind` its identity.

    """

    kind: str
    level: Level
    text: str
    about: str = ""


@dataclass(frozen=True)
class Disk:
    """A mounted file system.

    Attributes:
        mount: Where it is mounted, without control characters.
        size_kb: Its size in KiB.
        used_percent: How full it is, as `df` shows it.

    """

    mount: str
    size_kb: int
    used_percent: int


@dataclass
class Vitals:
    """What a host said of itself; None where it did not say it.

    Attributes:
        clock: Its clock, UTC and aware.
        load: Its load over 1, 5 and 15 minutes.
        cores: How many processors it has.
        memory_kb: Its memory in KiB.
        memory_free_kb: How much of that programs can still have, in KiB.
        uptime_seconds: How long ago it was started.
        docker: `absent`, `unknown`, or the state of Docker's service in systemd's words.
        disks: Its disks, the fullest first.
        unread: Names of the sections that were missing, or could not be read.

    """

    clock: datetime | None = None
    load: tuple[float, float, float] | None = None
    cores: int | None = None
    memory_kb: int | None = None
    memory_free_kb: int | None = None
    uptime_seconds: int | None = None
    docker: str | None = None
    disks: list[Disk] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    @property
    def memory_percent(self) -> float | None:
        """How much of the memory is in use, in percent."""
        if self.memory_kb is None or self.memory_free_kb is None:
            return None
        return 100 * (1 - self.memory_free_kb / self.memory_kb)


def read(output: bytes) -> Vitals:
    """Read what `COMMAND` has printed; whatever came instead is noted as unread."""
    sections = _sections(output.decode("utf-8", errors="replace"))
    vitals = Vitals()
    for name in SECTIONS:
        try:
            _READERS[name](vitals, sections[name])
        except (KeyError, IndexError, ValueError, OverflowError):
            vitals.unread.append(name)
    return vitals


def skew(
    vitals: Vitals, sent_at: datetime, round_trip_seconds: float
) -> tuple[float, float] | None:
    """Return how far a host's clock is ahead, and how wrong that may be, both in seconds.

    Args:
        vitals: What the host said.
        sent_at: When it was asked, by our clock.
        round_trip_seconds: How long the first part of its answer took.

    """
    if vitals.clock is None:
        return None
    # It read its clock somewhere on the way; in the middle the error is the smallest.
    half = timedelta(seconds=round_trip_seconds / 2)
    return (vitals.clock - (sent_at + half)).total_seconds(), half.total_seconds()


def problems(
    vitals: Vitals, ahead: tuple[float, float] | None, skew_seconds: float
) -> list[Problem]:
    """Return what is wrong with a host.

    Args:
        vitals: What it said.
        ahead: What `skew` made of that.
        skew_seconds: How far its clock may be off.

    """
    found = [*_unread(vitals), *_disks(vitals), *_memory(vitals), *_load(vitals), *_docker(vitals)]
    if ahead is not None and abs(ahead[0]) - ahead[1] > skew_seconds:
        way = "ahead" if ahead[0] > 0 else "behind"
        text = f"Its clock is {abs(ahead[0]):.1f} s {way} (give or take {ahead[1]:.1f} s)."
        found.append(Problem("clock_skew", "degraded", text))
    return found


def facts(vitals: Vitals, ahead: tuple[float, float] | None) -> dict[str, Any]:
    """Return what is kept of a host's vital signs, as JSON can hold it."""
    used = vitals.memory_percent
    return {
        "load": vitals.load,
        "cores": vitals.cores,
        "memory_kb": vitals.memory_kb,
        "memory_percent": None if used is None else round(used, 1),
        "uptime_seconds": vitals.uptime_seconds,
        "clock_skew_seconds": None if ahead is None else round(ahead[0], 1),
        "docker": vitals.docker,
        "disks": [
            {"mount": one.mount, "size_kb": one.size_kb, "used_percent": one.used_percent}
            for one in vitals.disks
        ],
    }


def _unread(vitals: Vitals) -> Iterator[Problem]:
    if vitals.unread:
        names = "anything" if len(vitals.unread) == len(SECTIONS) else ", ".join(vitals.unread)
        yield Problem("unreadable", "degraded", f"Its answer does not say {names}, or not legibly.")


def _disks(vitals: Vitals) -> Iterator[Problem]:
    for disk in vitals.disks:
        if disk.used_percent >= DISK_DEGRADED_PERCENT:
            critical = disk.used_percent >= DISK_CRITICAL_PERCENT
            yield Problem(
                "resource_exhausted",
                "critical" if critical else "degraded",
                f"The disk at {disk.mount} is {disk.used_percent} % full.",
                f"disk {disk.mount}",
            )


def _memory(vitals: Vitals) -> Iterator[Problem]:
    used = vitals.memory_percent
    if used is not None and used >= MEMORY_PERCENT:
        yield Problem(
            "resource_exhausted", "degraded", f"{used:.0f} % of its memory is in use.", "memory"
        )


def _load(vitals: Vitals) -> Iterator[Problem]:
    if vitals.load is None or vitals.cores is None:
        return
    if vitals.load[0] > LOAD_PER_CORE * vitals.cores:
        text = f"Its load is {vitals.load[0]:.1f} on {vitals.cores} cores."
        yield Problem("resource_exhausted", "degraded", text, "load")


def _docker(vitals: Vitals) -> Iterator[Problem]:
    if vitals.docker not in (None, "absent", "unknown", "active", "reloading"):
        text = f"Docker is there and not active, but {vitals.docker}."
        yield Problem("service_down", "degraded", text, "docker")


# -- reading, a section each; what does not fit is a ValueError, an IndexError or a KeyError


def _sections(text: str) -> dict[str, list[str]]:
    """Return the lines of each section; a host may print before the first one what it likes."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.replace("\r", "").split("\n"):
        name = line[1:-1]
        if line == f"[{name}]" and name in SECTIONS and name not in found:
            lines = found[name] = []
        else:
            lines.append(line)
    return found


def _read_clock(vitals: Vitals, lines: list[str]) -> None:
    seconds, *rest = lines[0].split()
    # A busybox without %N prints it as it stands, or leaves it out.
    nanoseconds = rest[0] if rest and re.fullmatch(r"[0-9]{9}", rest[0]) else "0"
    since_epoch = timedelta(seconds=_count(seconds), microseconds=int(nanoseconds) // 1000)
    vitals.clock = EPOCH + since_epoch


def _read_load(vitals: Vitals, lines: list[str]) -> None:
    one, five, fifteen = (_number(word, 1e7) for word in lines[0].split()[:3])
    vitals.load = (one, five, fifteen)


def _read_cores(vitals: Vitals, lines: list[str]) -> None:
    vitals.cores = _count(lines[0].strip(), least=1, most=1 << 20)


def _read_memory(vitals: Vitals, lines: list[str]) -> None:
    sizes = {
        name: _count(value.split()[0])
        for name, _, value in (line.partition(":") for line in lines)
        if name in ("MemTotal", "MemAvailable", "MemFree", "Buffers", "Cached")
    }
    # Kernels before 3.14 do not say what is available.
    free = sizes.get("MemAvailable")
    if free is None:
        free = sizes["MemFree"] + sizes["Buffers"] + sizes["Cached"]
    if sizes["MemTotal"] < 1:
        raise ValueError("no memory")
    vitals.memory_kb = sizes["MemTotal"]
    vitals.memory_free_kb = min(free, sizes["MemTotal"])


def _read_uptime(vitals: Vitals, lines: list[str]) -> None:
    vitals.uptime_seconds = int(_number(lines[0].split()[0], 1e10))


def _read_docker(vitals: Vitals, lines: list[str]) -> None:
    state = lines[0].strip()
    if state not in _DOCKER_STATES | {"absent", "unknown"}:
        raise ValueError(state)
    vitals.docker = state


def _read_disks(vitals: Vitals, lines: list[str]) -> None:
    disks: dict[str, Disk] = {}
    for line in lines:
        if (row := _df_row(line)) is None:
            continue
        source, disk = row
        # What is mounted in several places is one disk, and its own place has the shortest name.
        if source not in disks or len(disk.mount) < len(disks[source].mount):
            disks[source] = disk
    if not disks:
        raise ValueError("not even a root")
    vitals.disks = sorted(disks.values(), key=lambda one: (-one.used_percent, one.mount))[:DISKS]


def _df_row(line: str) -> tuple[str, Disk] | None:
    """Return source and disk of a line of `df -P -k`, or None if it is not about a disk.

    The names at both ends may hold spaces; the numbers in between are found by their form.
    """
    words = line.split()
    for at in range(4, len(words) - 1):
        numbers = [*words[at - 3 : at], words[at].removesuffix("%")]
        if not (words[at].endswith("%") and words[at + 1].startswith("/")):
            continue
        if not all(re.fullmatch(r"[0-9]{1,18}", word) for word in numbers):
            continue
        source, mount = " ".join(words[: at - 3]), _plain(" ".join(words[at + 1 :]))
        root = mount == "/"
        size, used = int(numbers[0]), int(numbers[3])
        if size == 0 or used > 100 or (_NO_DISKS.fullmatch(source) and not root):
            return None
        if _NO_MOUNTS.match(f"{mount}/"):
            return None
        return source, Disk(mount, size, used)
    return None


def _read_end(vitals: Vitals, lines: list[str]) -> None:
    """Nothing is in it; that it came says that the rest is whole."""


_READERS: dict[str, Callable[[Vitals, list[str]], None]] = {
    "clock": _read_clock,
    "load": _read_load,
    "cores": _read_cores,
    "memory": _read_memory,
    "uptime": _read_uptime,
    "docker": _read_docker,
    "disks": _read_disks,
    "end": _read_end,
}


def _number(word: str, most: float) -> float:
    if not re.fullmatch(r"[0-9]{1,11}(\.[0-9]{1,9})?", word) or float(word) > most:
        raise ValueError(word)
    return float(word)


def _count(word: str, least: int = 0, most: int = 1 << 50) -> int:
    if not re.fullmatch(r"[0-9]{1,16}", word) or not least <= int(word) <= most:
        raise ValueError(word)
    return int(word)


def _plain(text: str) -> str:
    """Return a name without control characters, and no longer than a line."""
    plain = "".join(one if one.isprintable() else "?" for one in text)
    return plain.encode()[:MOUNT_BYTES].decode(errors="ignore")
