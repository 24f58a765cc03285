"""Servers and incidents as the API shows them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Depends, Path
from pydantic import AfterValidator, BaseModel, Field
from sqlalchemy.exc import NoResultFound

from api import documents
from api.access import no_tenant
from api.problems import Refused, unfit
from deployments.entry import SLUG, Parameters, Text
from store import health, incidents

HANDLE = "vps-10482"
REQUEST = "7b0e6b1c-5a55-4c4f-9a53-2f6f0a1c9d10"
INCIDENT = "5d0c9a52-2f0e-4d5a-8f43-0b8a4d8f2b11"

AHEAD = timedelta(hours=1)
"""How far a caller's clock may be ahead: what is recorded of later would shut out what follows."""

Status = Literal[
    "discovered",
    "pending_setup",
    "provisioning",
    "ready",
    "in_use",
    "active",
    "error",
    "unreachable",
    "degraded",
    "maintenance",
    "reserved",
    "missing",
    "decommissioned",
]
State = Literal["up", "degraded", "critical", "down", "unknown"]
Level = Literal["degraded", "critical"]
Severity = Literal["warning", "critical"]
IncidentStatus = Literal["detected", "recovering", "resolved"]


def _address(value: str) -> str:
    try:
        found = ip_address(value)
    except ValueError:
        raise ValueError("is no IP address") from None
    if "%" in value:
        raise ValueError("is an address with a zone; leave that out")
    return str(found)


def _bounded(value: dict[str, Any]) -> dict[str, Any]:
    if len(str(value)) > 64 * 1024:
        raise ValueError("is larger than 64 KiB as text")
    return value


Handle = Annotated[str, Field(pattern=f"^{SLUG}$", max_length=63)]
Kind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
About = Annotated[Text, Field(max_length=200)]
Line = Annotated[Text, Field(max_length=2000)]
Address = Annotated[Text, AfterValidator(_address)]
# Nothing that a program could take for an option, wherever it stands on a command line.
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.:-]*$", max_length=255)]
User = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$", max_length=64)]
Port = Annotated[int, Field(ge=1, le=65535)]
Labels = Annotated[
    dict[
        Annotated[Text, Field(min_length=1, max_length=63)], Annotated[Text, Field(max_length=255)]
    ],
    Field(max_length=100),
]
Details = Annotated[Parameters, AfterValidator(_bounded)]


async def _handle(
    handle: Annotated[
        str, Path(description="The server's handle", examples=[HANDLE], max_length=200)
    ],
) -> str:
    if not re.fullmatch(SLUG, handle):
        raise no_server(handle)
    return handle


HandlePath = Annotated[str, Depends(_handle)]


class Trouble(BaseModel):
    """Something that is wrong with a server."""

    kind: str = Field(description="What, as a name", examples=["resource_exhausted"])
    about: str = Field(description="Of what; empty where there is one only", examples=["disk /var"])
    level: Level = Field(description="How bad it is", examples=["degraded"])
    text: str = Field(description="The same for people", examples=["disk /var is 92 % full"])


class Health(BaseModel):
    """What the checks say of a server."""

    state: State = Field(
        description="Whether it answers, and how it is; unknown before any check", examples=["up"]
    )
    since: datetime | None = Field(
        description="Since when; null before any check", examples=[documents.INSTANT]
    )
    failures: int = Field(
        description="Checks in a row that found it down; those that found out nothing do not count",
        examples=[0],
    )
    history: str = Field(
        description="The last 21 outcomes, the oldest first: U up, D down, N unknown",
        examples=["UUUUDUUNU"],
    )
    flapping: bool = Field(
        description="Whether it goes up and down too often to tell which it is", examples=[False]
    )
    reason: str | None = Field(
        description="Why the last check did not find it up; null if it did",
        examples=["connection refused"],
    )
    facts: dict[str, Any] = Field(
        description="What was measured last", examples=[{"uptime_seconds": 86400}]
    )
    problems: list[Trouble] = Field(description="What is wrong with it, as far as is known")
    status_before: Status | None = Field(
        description="The status that it gets back when it answers again; null unless it is down",
        examples=["in_use"],
    )


class Server(BaseModel):
    """A server of the tenant's."""

    id: UUID = Field(description="Its id here", examples=["0190a3c2-7d4e-7b6a-9f00-3a5c1d2e4f60"])
    tenant: str = Field(description="The tenant's slug", examples=["acme"])
    handle: str = Field(description="How it is addressed", examples=[HANDLE])
    provider: str = Field(
        description="Who has it; manual for one made by hand", examples=["time4vps"]
    )
    provider_id: str | None = Field(description="Its id there", examples=["10482"])
    host: str | None = Field(description="Its name", examples=["web-1.example.com"])
    public_ip: str | None = Field(description="Its address", examples=["203.0.113.7"])
    addresses: list[str] = Field(description="All of its addresses", examples=[["203.0.113.7"]])
    capacity_cpu: int | None = Field(description="Its cores", examples=[4])
    capacity_ram_mb: int | None = Field(description="Its memory, in MB", examples=[8192])
    capacity_disk_mb: int | None = Field(description="Its disk, in MB", examples=[81920])
    used_ram_mb: int | None = Field(description="Memory in use, in MB", examples=[2048])
    used_disk_mb: int | None = Field(description="Disk in use, in MB", examples=[20480])
    os_template: str | None = Field(
        description="What was installed on it", examples=["kvm-ubuntu-24.04-gpt-x86_64"]
    )
    provider_status: str | None = Field(description="Its status there", examples=["Active"])
    managed: bool = Field(description="Whether it is Rota's to set up and check", examples=[True])
    status: Status = Field(description="What it is doing", examples=["in_use"])
    ssh_user: str = Field(description="Who to log in as", examples=["root"])
    ssh_port: int = Field(description="At which port", examples=[22])
    notes: str | None = Field(description="For people", examples=["The old shop."])
    labels: dict[str, str] = Field(description="For programs", examples=[{"role": "web"}])
    maintenance_from: datetime | None = Field(
        description="When maintenance begins; null: it has begun, if it has an end",
        examples=[documents.INSTANT],
    )
    maintenance_until: datetime | None = Field(
        description="When it ends; null: not before further notice, if it has a beginning",
        examples=["2026-03-01T09:00:00Z"],
    )
    provisioning_attempts: int = Field(
        description="How often setting it up has failed since it last was", examples=[0]
    )
    provisioning_started_at: datetime | None = Field(
        description="Since when it is being set up", examples=[documents.INSTANT]
    )
    provisioning_request: UUID | None = Field(
        description="The live request to set it up; null for none", examples=[REQUEST]
    )
    provisioning_requested_at: datetime | None = Field(
        description="When that was last handed out", examples=[documents.INSTANT]
    )
    provisioning_published_at: datetime | None = Field(
        description="When it was said to be in the queue; null until then",
        examples=[documents.INSTANT],
    )
    health: Health = Field(description="What the checks say")
    last_health_check_at: datetime | None = Field(
        description="When it was last checked", examples=[documents.INSTANT]
    )
    created_at: datetime = Field(description="When it was made here", examples=[documents.INSTANT])
    updated_at: datetime = Field(
        description="When it last changed, but for its health", examples=[documents.INSTANT]
    )
    last_seen_at: datetime | None = Field(
        description="When its provider last listed it", examples=[documents.INSTANT]
    )


class Incident(BaseModel):
    """Something that is or was wrong."""

    id: UUID = Field(description="Its id", examples=[INCIDENT])
    tenant: str = Field(description="The tenant's slug", examples=["acme"])
    server: str | None = Field(
        description="The server's handle; null where it is about none", examples=[HANDLE]
    )
    kind: str = Field(description="Of which kind", examples=["resource_exhausted"])
    about: str = Field(
        description="What it is about; empty where there is one of its kind only",
        examples=["disk /var"],
    )
    status: IncidentStatus = Field(
        description="It is open until it is resolved", examples=["detected"]
    )
    severity: Severity = Field(description="How bad it is", examples=["warning"])
    title: str = Field(description="The same for people", examples=["disk /var is 92 % full"])
    details: dict[str, Any] = Field(
        description="More of it, for programs", examples=[{"prober": "acme/health"}]
    )
    detected_at: datetime = Field(
        description="When it was first seen", examples=[documents.INSTANT]
    )
    resolved_at: datetime | None = Field(
        description="When it was over; null while it is open", examples=["2026-03-01T09:00:00Z"]
    )
    last_seen_at: datetime = Field(
        description="When it was last seen", examples=[documents.INSTANT]
    )
    recovery_attempts: int = Field(description="How often somebody began to mend it", examples=[0])


def server(row: Any) -> dict[str, Any]:
    """Return a row of servers as a document."""
    found = {name: getattr(row, name) for name in Server.model_fields}
    known = health.written(health.read(row.health))
    return found | {"health": {name: known[name] for name in Health.model_fields}}


def incident(row: Any) -> dict[str, Any]:
    """Return a row of incidents as a document."""
    return {name: getattr(row, name) for name in Incident.model_fields}


def no_server(handle: str) -> Refused:
    """Return the refusal of a server that is not there, or another tenant's."""
    return Refused(404, f"There is no server {handle[:63]!r} of this tenant.")


@contextmanager
def existing(tenant: str) -> Iterator[None]:
    """Refuse what is written meanwhile if there is no such tenant, or it has no room for it.

    Raises:
        Refused: 404, there is no such tenant; 409, it would have too many open incidents.
    """
    try:
        yield
    except NoResultFound:
        raise no_tenant(tenant) from None
    except incidents.TooMany as error:
        said = (
            f"{error.number} incidents would be open, and a tenant may have {incidents.MOST_OPEN}. "
            "Close those that are over; nothing was written."
        )
        raise Refused(409, said) from None


def without_default(schema: dict[str, Any]) -> None:
    """Take the default out of a field's schema: what is left out stays as it is."""
    schema.pop("default", None)


def check_clock(at: datetime, field: str = "at") -> datetime:
    """See that what is recorded has happened.

    Args:
        at: When, by the caller's clock.
        field: Which field says so.

    Returns:
        The instant; now, if it is a little ahead.

    Raises:
        Refused: 422, it is more than an hour ahead.
    """
    now = datetime.now(UTC)
    if at > now + AHEAD:
        raise unfit(f"{field}: {at.isoformat()} is yet to come; set the clock of whoever sent it")
    return min(at, now)


def check_unique(field: str, values: Sequence[str]) -> None:
    """See that a field has another value in each item of a list.

    Args:
        field: Its path, with `*` in place of the item's number.
        values: What it has in each.

    Raises:
        Refused: 422, two items have the same.
    """
    first: dict[str, int] = {}
    for number, value in enumerate(values):
        if first.setdefault(value, number) != number:
            where = field.replace("*", str(number))
            raise unfit(f"{where}: {value!r} is that of no. {first[value]} too; send each once")
