"""The duty that looks after servers over SSH."""

import asyncio
import ipaddress
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_table_artifact
from prefect.states import Completed
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blocks import Records
from blocks.outgoing import logger
from blocks.records import Params, TenantRecords
from blocks.ssh import SSHAccess
from blocks.ssh_hosts import Answer, Host, HostDown, HostKeyChanged, Hosts, HostUnknown
from flows import blocks_by_name, first_use, vitals
from flows.first_use import Trusted
from flows.notices import tell
from flows.occurrence import Occurrence, current_occurrence
from flows.tenancy import tenant_of
from flows.vitals import Problem

NonEmpty = Annotated[str, Field(min_length=1)]

CHECKED = ("ready", "in_use", "active", "error", "degraded", "unreachable", "maintenance")
"""Statuses of servers that are looked at. In maintenance nothing is opened, but it is recorded."""

BATCH = 5000
"""Checks that the API takes at once."""

BATCH_BYTES = 4 << 20
"""About so many bytes of them: half of what the API takes."""

NAMED = 20
"""Servers that are not up that the run's log names."""

HOST_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
    r"(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?)*\.?"
)


class Server(BaseModel):
    """A server as its record has it; only what is needed to log in."""

    model_config = ConfigDict(extra="ignore")

    handle: str = Field(min_length=1, max_length=255)
    host: str | None = None
    public_ip: str | None = None
    addresses: list[str] = Field(default_factory=list)
    ssh_user: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$")
    ssh_port: int = Field(default=22, ge=1, le=65535)


@dataclass(frozen=True)
class Check:
    """What was found out about one server.

    Attributes:
        handle: Which server.
        outcome: `up`, `down`, or `unknown` if the fault is on our side.
        reason: Why it is not up, a sentence.
        facts: What it said of itself, as JSON can hold it.
        problems: What is wrong with it.

    """

    handle: str
    outcome: Literal["up", "down", "unknown"]
    reason: str | None = None
    facts: dict[str, Any] | None = None
    problems: list[Problem] = field(default_factory=list)


@flow
async def health_checker(
    service: NonEmpty = "default",
    records: NonEmpty = "default",
    tenant: NonEmpty | None = None,
    at_a_time: Annotated[int, Field(ge=1, le=1000)] = 200,
    failures_needed: Annotated[int, Field(ge=1, le=100)] = 2,
    skew_seconds: Annotated[float, Field(gt=0, le=86_400)] = 30,
    deadline_seconds: Annotated[float, Field(gt=0, le=3600)] = 120,
    notify: Annotated[Sequence[NonEmpty], Field(max_length=20)] = (),
) -> dict[str, Any]:
    """Log in to the managed servers of the tenant that are in service, and record how they are.

    Those are `ready`, `in_use`, `active`, `error`, `degraded`, `unreachable`, or in `maintenance`;
    what is still to be set up, or is missing or reserved, is left alone. Each server is asked once
    for its disks, memory, load, Docker, uptime and clock. Rota decides what that means: it opens
    and closes incidents, and damps servers that come and go. What fails for reasons on our side
    (credentials, network, an unknown host key) leaves a server's state as it is. The results are
    also kept as a table among the run's artifacts, `rota-health`.

    Args:
        service: The name of the SSH Access block to use.
        records: The name of the Records block to use.
        tenant: Whose servers to look at, in a run that no definition has made.
        at_a_time: How many servers to be logged in to at once.
        failures_needed: How many checks in a row have to fail before a server counts as
            unreachable.
        skew_seconds: How far a server's clock may be off, in seconds.
        deadline_seconds: When to leave the rest of the servers unchecked, in seconds from the
            beginning of the sweep.
        notify: The full names of notification blocks to tell people through what is new, such as
            `slack-webhook/ops`.

    """
    occurrence = current_occurrence()
    slug = tenant_of(tenant)
    access = await blocks_by_name.load(SSHAccess, service, slug)
    book = await blocks_by_name.load(Records, records, slug)
    async with book.of(slug) as mine:
        servers, skipped = await _servers(mine)
        # What was trusted on the way to one network says nothing about another's.
        key = f"ssh/known-hosts/{service}"
        trusted = Trusted({})
        if access.host_keys == "trust-on-first-use":
            trusted = await first_use.recall(mine, key, access.jump_place)
        sweep = Sweep(access, trusted.keys, at_a_time, deadline_seconds, skew_seconds)
        checks = await sweep.over(servers)
        # By the occurrence's time, what a run finds that is tried again counts once, and what an
        # old one finds late counts no more.
        verdict = await _write(mine, checks, occurrence.at, failures_needed, _prober(occurrence))
        _name_what_is_not_up(checks)
        await tell(mine, notify)
        if sweep.left_out:
            first_use.say_left_out(len(sweep.left_out))
        await first_use.remember(mine, key, trusted, sweep.learned)
    outcomes = Counter(check.outcome for check in checks)
    summary = (
        f"{len(checks)} servers: {outcomes['up']} up, {outcomes['down']} down, "
        f"{outcomes['unknown']} unknown; {len(verdict.opened)} incidents opened, "
        f"{len(verdict.closed)} closed."
    )
    if skipped:
        summary += f" {skipped} more could not be read, and the log names them."
    if verdict.prober == "failed":
        summary += " Too many failed at once, so the fault is taken to be the prober's."
    get_run_logger().info(summary, extra={"action": "health_checked"})
    await acreate_table_artifact(
        table(checks, verdict.states) or [{"server": "none"}],
        key="rota-health",
        description=f"{slug}: {summary}",
    )
    data = {"outcomes": dict(outcomes), **verdict.model_dump(), "trusted": sorted(sweep.learned)}
    return Completed(data=data, message=summary)  # type: ignore[return-value]


# -- looking


class Sweep:
    """One look at many servers.

    Attributes:
        learned: The host keys that were trusted for being the first, by address and port.
        left_out: Where one was not, for want of room.

    """

    def __init__(
        self,
        access: SSHAccess,
        trusted: dict[str, str],
        at_a_time: int,
        deadline_seconds: float,
        skew_seconds: float,
    ) -> None:
        self._access = access
        self._trusted = trusted
        self._at_a_time = at_a_time
        self._deadline_seconds = deadline_seconds
        self._skew_seconds = skew_seconds
        self.learned: dict[str, str] = {}
        self.left_out: set[str] = set()

    async def over(self, servers: Sequence[Server]) -> list[Check]:
        """Check servers, in their order; one that was not reached before the deadline is unknown.

        Raises:
            SSHUnusable: The block's values cannot be used.

        """
        found: dict[str, Check] = {}
        reason = f"It was not looked at within the {self._deadline_seconds:g} s of the sweep."
        try:
            async with asyncio.timeout(self._deadline_seconds):
                async with self._access.opened(self._trusted) as hosts:
                    self.learned, self.left_out = hosts.learned, hosts.left_out
                    await self._share_out(hosts, iter(servers), found)
        except TimeoutError:
            pass
        except HostUnknown as error:
            reason = str(error)
        return [found.get(one.handle, Check(one.handle, "unknown", reason)) for one in servers]

    async def _share_out(
        self, hosts: Hosts, servers: Iterator[Server], found: dict[str, Check]
    ) -> None:
        async def work() -> None:
            for server in servers:
                found[server.handle] = await self._check(hosts, server)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._at_a_time):
                group.create_task(work())

    async def _check(self, hosts: Hosts, server: Server) -> Check:
        handle = server.handle
        try:
            answer = await hosts.run(host_of(server), vitals.COMMAND)
            return self._judge(handle, answer)
        except HostDown as error:
            return Check(handle, "down", str(error))
        except HostKeyChanged as error:
            changed = Problem("host_key_changed", "critical", str(error))
            return Check(handle, "unknown", str(error), problems=[changed])
        except (HostUnknown, ValueError) as error:
            return Check(handle, "unknown", str(error))
        except Exception as error:  # one host may not end the sweep, whatever it has sent
            logger(__name__).exception("The check of %s failed.", handle)
            return Check(handle, "unknown", f"The check failed: {type(error).__name__}.")

    def _judge(self, handle: str, answer: Answer) -> Check:
        said = vitals.read(answer.output)
        ahead = vitals.skew(said, answer.sent_at, answer.first_seconds)
        wrong = vitals.problems(said, ahead, self._skew_seconds)
        return Check(handle, "up", facts=vitals.facts(said, ahead), problems=wrong)


def host_of(server: Server) -> Host:
    """Return where a server is logged in to: its public address, its name, or another address.

    Raises:
        ValueError: It has none of these, or none that could be one.

    """
    given = [one for one in (server.public_ip, server.host, *server.addresses) if one]
    for address in given:
        if _is_address(address):
            name = server.host if server.host and HOST_NAME.fullmatch(server.host) else None
            return Host(address, server.ssh_port, server.ssh_user or None, name)
    if given:
        raise ValueError(f"None of its addresses can be one: {given[0][:100]!r}.")
    raise ValueError("It has no address; set public_ip or host of the server.")


def _is_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        # What looks like an address and is none is no name either.
        return bool(HOST_NAME.fullmatch(text)) and not re.fullmatch(r"[0-9.]+", text)
    return not (address.is_unspecified or address.is_multicast)


# -- reading and writing records


class Verdict(BaseModel):
    """What Rota made of the checks.

    Attributes:
        states: The state of each server, by its handle.
        opened: The incidents that the checks have opened.
        closed: The incidents that they have closed.
        flapping: The servers that come and go, by their handles.
        prober: `failed` if so many failed that the fault is taken to be here.

    """

    states: dict[str, str] = Field(default_factory=dict)
    opened: list[dict[str, Any]] = Field(default_factory=list)
    closed: list[dict[str, Any]] = Field(default_factory=list)
    flapping: list[str] = Field(default_factory=list)
    prober: Literal["ok", "failed"] = "ok"

    def add(self, other: "Verdict") -> None:
        """Take in what was made of the rest."""
        self.states |= other.states
        self.opened += other.opened
        self.closed += other.closed
        self.flapping += other.flapping
        if other.prober == "failed":
            self.prober = "failed"


async def _servers(records: TenantRecords) -> tuple[list[Server], int]:
    """Return the servers to check, and how many records do not fit."""
    found: list[Server] = []
    skipped = 0
    params: Params = {"managed": True, "status": CHECKED}
    async for page in records.pages("servers", params=params):
        for row in page:
            try:
                found.append(Server.model_validate(row))
            except ValidationError as error:
                skipped += 1
                first = error.errors(include_input=False, include_url=False)[0]
                get_run_logger().warning(
                    "The server %r is skipped: %s: %s.",
                    str(row.get("handle"))[:100],
                    ".".join(map(str, first["loc"])),
                    first["msg"],
                    extra={"action": "server_skipped"},
                )
    return found, skipped


async def _write(
    records: TenantRecords, checks: Sequence[Check], at: datetime, needed: int, prober: str
) -> Verdict:
    verdict = Verdict()
    for batch in batches(checks):
        body = {
            "at": at.isoformat(),
            "checks": batch,
            "failures_needed": needed,
            "prober": prober,
        }
        answer = await records.put("servers", "checks", body=body)
        verdict.add(Verdict.model_validate(answer))
    return verdict


def batches(checks: Iterable[Check]) -> list[list[dict[str, Any]]]:
    """Return checks as the API takes them at once.

    Each batch is a sample of the whole fleet, so that a failure of the prober's shows in it.
    """
    sized = [(len(json.dumps(one)), one) for one in map(asdict, checks)]
    # Dealt out by size, the batches are of much the same size too.
    sized.sort(key=lambda pair: pair[0], reverse=True)
    size = sum(size for size, _ in sized)
    number = max(1, -(-len(sized) // BATCH), -(-size // BATCH_BYTES))
    return [[one for _, one in sized[first::number]] for first in range(number)]


def _name_what_is_not_up(checks: Iterable[Check]) -> None:
    wrong = [check for check in checks if check.outcome != "up"]
    for check in wrong[:NAMED]:
        get_run_logger().warning(
            "%s is %s: %s", check.handle, check.outcome, check.reason, extra={"action": "not_up"}
        )
    if len(wrong) > NAMED:
        get_run_logger().warning("%d more are not up.", len(wrong) - NAMED)


def _prober(occurrence: Occurrence) -> str:
    return occurrence.reference or "health_checker"


# -- the table


def table(checks: Iterable[Check], states: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the checks as rows for people, what is worst first."""
    rows = [_row(check, states.get(check.handle, "")) for check in checks]
    order = ("critical", "down", "degraded", "unknown", "up")

    def rank(row: dict[str, Any]) -> tuple[int, str]:
        state = row["state"] if row["outcome"] == "up" else row["outcome"]
        return order.index(state) if state in order else 0, row["server"]

    return sorted(rows, key=rank)


def _row(check: Check, state: str) -> dict[str, Any]:
    said = check.facts or {}
    disks = said.get("disks") or [{}]
    reasons = [one.text for one in check.problems] or [check.reason or ""]
    return {
        "server": check.handle,
        "outcome": check.outcome,
        "state": state,
        "what": " ".join(reasons),
        "disk %": disks[0].get("used_percent"),
        "memory %": said.get("memory_percent"),
        "load": (said.get("load") or [None])[0],
        "docker": said.get("docker"),
        "up for h": round(said["uptime_seconds"] / 3600, 1) if said.get("uptime_seconds") else None,
        "clock s": said.get("clock_skew_seconds"),
    }
