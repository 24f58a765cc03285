"""What checks say of a server's health: state in, check in, state out; no I/O.

A check is a fact, and what is to be open of incidents follows from all facts that are known, not
from the last one's difference: whatever was missed is made up for by the next check.

    outcome   failures   state                          status of a server in service
    up        0          up, degraded or critical       the one before, if it was unreachable
    down      + 1        down, once there are enough    unreachable, once it is down
    unknown   the same   the same                       the same

Flapping and maintenance hold back incidents and status, never what is recorded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from typing import Any

IN_SERVICE = frozenset({"ready", "in_use", "active", "error", "degraded"})
"""Statuses of servers that are to answer; `unreachable` is one of these that does not."""

STATES = 21
"""Outcomes that a server's history has, the oldest first, as Nagios keeps them."""

FLAPS_FROM, FLAPS_UNTIL = 30.0, 20.0
"""Percent of weighted changes: flapping begins at the first, and ends below the second."""

MOST_PROBLEMS = 200
"""Problems of one server that are kept."""

_LETTERS = {"up": "U", "down": "D", "unknown": "N"}
_LEVELS = ("degraded", "critical")  # the worst last
_SEVERITIES = {"degraded": "warning", "critical": "critical"}

PROBED = 5
"""So many checks it takes to tell a prober that fails from servers that do."""

Identity = tuple[str, str]
"""Which incident of a server: its kind, and what it is about."""

UNREACHABLE: Identity = ("server_unreachable", "")
FLAPPING: Identity = ("flapping", "")


@dataclass(frozen=True)
class Trouble:
    """One thing that a check found wrong.

    Attributes:
        kind: What, such as `resource_exhausted`.
        level: `degraded` or `critical`.
        text: The same for people.
        about: Which of several, such as `disk /var`; empty where there is one only.
    """

    kind: str
    level: str
    text: str
    about: str = ""

    @property
    def identity(self) -> Identity:
        """Which incident it makes."""
        return self.kind, self.about


@dataclass(frozen=True)
class Check:
    """What one look at a server has found.

    Attributes:
        outcome: `up`, `down`, or `unknown` where the looking failed, not the server.
        reason: Why it is not up.
        facts: What was measured; None where nothing was.
        problems: What was found wrong.
    """

    outcome: str
    reason: str | None = None
    facts: Mapping[str, Any] | None = None
    problems: Sequence[Trouble] = ()


@dataclass(frozen=True)
class Health:
    """What is known of a server's health.

    Attributes:
        state: `up`, `degraded`, `critical`, `down` or `unknown`, the last before any check.
        since: Since when; None before any check.
        failures: Checks in a row that found it down; those that found out nothing do not count.
        history: The last 21 outcomes, the oldest first: U up, D down, N unknown.
        flapping: Whether it goes up and down too often to tell which it is.
        reason: Why the last check did not find it up.
        facts: What was measured last.
        problems: What is wrong with it, as far as is known.
        status_before: The status to give back when it is reached again.
        unclosed: Incidents that are over, and may be open still: somebody else saw them later.
    """

    state: str = "unknown"
    since: datetime | None = None
    failures: int = 0
    history: str = ""
    flapping: bool = False
    reason: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[Trouble, ...] = ()
    status_before: str | None = None
    unclosed: tuple[Identity, ...] = ()


@dataclass(frozen=True)
class Opening:
    """An incident that is to be open.

    Attributes:
        kind: Of which kind.
        about: What it is about.
        severity: `warning` or `critical`.
        title: The same for people.
    """

    kind: str
    about: str
    severity: str
    title: str


@dataclass(frozen=True)
class Judged:
    """What follows from a check.

    Attributes:
        health: The server's health from now on.
        status: The server's status from now on.
        opening: The incidents that are to be open, whether or not they are already.
        closing: Those that are to be closed, if they are open.
    """

    health: Health
    status: str
    opening: tuple[Opening, ...]
    closing: frozenset[Identity]


def judge(
    health: Health,
    status: str,
    check: Check,
    at: datetime,
    failures_needed: int = 2,
    *,
    maintenance: bool = False,
) -> Judged:
    """Return what follows from a check of a server.

    Args:
        health: What was known before it.
        status: The server's status.
        check: What was found.
        at: When; it is later than all checks before.
        failures_needed: Checks in a row that have to find it down before it is held to be.
        maintenance: Somebody is at work on it: nothing is opened, and its status stays.
    """
    quiet = maintenance or is_quiet(status)
    now = _recorded(health, check, at, failures_needed)
    kept = {one.identity for one in now.problems}
    seen = {one.identity for one in check.problems}
    opening = [
        Opening(*one.identity, _SEVERITIES[one.level], one.text)
        for one in now.problems
        if one.identity in seen
    ]
    over = ({one.identity for one in health.problems} | set(health.unclosed)) - kept
    now = replace(now, unclosed=tuple(sorted(over)))
    closing = over if check.outcome == "up" else set()
    if now.flapping:
        opening.append(Opening(*FLAPPING, "warning", "goes up and down again and again"))
    else:
        closing.add(FLAPPING)
        if check.outcome == "up":
            closing.add(UNREACHABLE)
            now, status = _reached(now, status)
        elif check.outcome == "down" and now.state == "down":
            opening.append(Opening(*UNREACHABLE, "critical", _unreachable(now)))
            if not quiet:
                now, status = _lost(now, status)
    return Judged(now, status, () if quiet else tuple(opening), frozenset(closing))


def settled(judged: Judged, left: Collection[Identity]) -> Health:
    """Return a server's health once its incidents have been closed.

    Args:
        judged: What followed from a check.
        left: Those of `closing` that are open all the same.
    """
    done = judged.closing - set(left)
    unclosed = tuple(one for one in judged.health.unclosed if one not in done)
    return replace(judged.health, unclosed=unclosed)


def read(said: Mapping[str, Any]) -> Health:
    """Return what is known of a server's health as it is stored; nothing is known at first."""
    if not said:
        return Health()
    since = said["since"] and datetime.fromisoformat(said["since"])
    problems = tuple(Trouble(**one) for one in said["problems"])
    unclosed = tuple((kind, about) for kind, about in said.get("unclosed", ()))
    return Health(**{**said, "since": since, "problems": problems, "unclosed": unclosed})


def written(health: Health) -> dict[str, Any]:
    """Return what is known of a server's health as JSON has it."""
    return asdict(health) | {"since": health.since and health.since.isoformat()}


def is_quiet(status: str) -> bool:
    """Tell whether nothing is opened for a server of this status, such as `maintenance`."""
    return status not in IN_SERVICE and status != "unreachable"


def in_window(since: datetime | None, until: datetime | None, at: datetime) -> bool:
    """Tell whether an instant is in a maintenance window; one side of it may be open."""
    if since is None and until is None:
        return False
    return (since is None or since <= at) and (until is None or at < until)


def flap_percent(history: str) -> float:
    """Return how much a server's outcomes change, by Nagios' formula, from 0 to 100.

    Each of the 20 steps between 21 outcomes weighs from 0.8, the oldest, to 1.2, the newest. What
    was unknown counts as what it was before; steps that have not been taken yet, as none.
    """
    known = _filled(history[-STATES:])
    steps = STATES - 1
    first = steps - (len(known) - 1)
    changed = [first + number for number, pair in enumerate(pairwise(known)) if len(set(pair)) > 1]
    return sum(0.8 + 0.4 * step / (steps - 1) for step in changed) / steps * 100


def prober_failed(looks: Sequence[tuple[str, str]]) -> bool:
    """Tell whether a sweep says more of who looks than of the servers that are looked at.

    A server that was not up before is no news: one by one it was recorded as what it is. While
    the prober fails, no server that is not up is recorded, so that all of them stay news.

    Args:
        looks: The history and the outcome of each server for which incidents may be opened.
    """
    failed = sum(
        outcome != "up" and history[-1:] in ("", _LETTERS["up"]) for history, outcome in looks
    )
    return len(looks) >= PROBED and failed * 2 > len(looks)


def _recorded(health: Health, check: Check, at: datetime, failures_needed: int) -> Health:
    history = (health.history + _LETTERS[check.outcome])[-STATES:]
    problems = _problems(health, check)
    failures = {"up": 0, "down": health.failures + 1}.get(check.outcome, health.failures)
    state = health.state
    if check.outcome == "up":
        state = max((one.level for one in problems), key=_LEVELS.index, default="up")
    elif check.outcome == "down" and failures >= failures_needed:
        state = "down"
    limit = FLAPS_UNTIL if health.flapping else FLAPS_FROM
    return replace(
        health,
        state=state,
        since=health.since if state == health.state and health.since else at,
        failures=failures,
        history=history,
        flapping=flap_percent(history) >= limit,
        reason=None if check.outcome == "up" else check.reason,
        facts=health.facts if check.facts is None else dict(check.facts),
        problems=problems,
    )


def _problems(health: Health, check: Check) -> tuple[Trouble, ...]:
    """Return what is wrong; only a server that is up can say that something no longer is."""
    known = () if check.outcome == "up" else health.problems
    found: dict[Identity, Trouble] = {one.identity: one for one in known}
    said: dict[Identity, Trouble] = {}
    for one in check.problems:
        other = said.get(one.identity, one)
        said[one.identity] = max(other, one, key=lambda which: _LEVELS.index(which.level))
    return tuple((found | said).values())[:MOST_PROBLEMS]


def _lost(health: Health, status: str) -> tuple[Health, str]:
    if status == "unreachable":
        return health, status
    return replace(health, status_before=status), "unreachable"


def _reached(health: Health, status: str) -> tuple[Health, str]:
    before = health.status_before or "active"
    return replace(health, status_before=None), before if status == "unreachable" else status


def _unreachable(health: Health) -> str:
    return "cannot be reached" + (f": {health.reason}" if health.reason else "")


def _filled(history: str) -> str:
    known = ""
    for letter in history:
        known += letter if letter != "N" or not known else known[-1]
    return known.lstrip("N")
