"""The tables of the fleet: servers, the changes of their status, incidents, notices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, ForeignKeyConstraint, Integer, func, select, text
from sqlalchemy.exc import NoResultFound
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from store.models import Base, Tenant
from store.writing import writing


class Server(Base):
    """A server of a tenant, as its provider, the checks and the people have it."""

    __tablename__ = "servers"

    id: Mapped[UUID] = mapped_column(
        primary_key=True, server_default=text("gen_random_uuid()"), init=False
    )
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.slug", ondelete="CASCADE"))
    handle: Mapped[str]
    provider: Mapped[str] = mapped_column(server_default=text("'manual'"), default="manual")
    provider_id: Mapped[str | None] = mapped_column(default=None)
    host: Mapped[str | None] = mapped_column(default=None)
    public_ip: Mapped[str | None] = mapped_column(default=None)
    addresses: Mapped[list[str]] = mapped_column(server_default=text("'{}'"), default_factory=list)
    capacity_cpu: Mapped[int | None] = mapped_column(BigInteger, default=None)
    capacity_ram_mb: Mapped[int | None] = mapped_column(BigInteger, default=None)
    capacity_disk_mb: Mapped[int | None] = mapped_column(BigInteger, default=None)
    used_ram_mb: Mapped[int | None] = mapped_column(BigInteger, default=None)
    used_disk_mb: Mapped[int | None] = mapped_column(BigInteger, default=None)
    os_template: Mapped[str | None] = mapped_column(default=None)
    provider_status: Mapped[str | None] = mapped_column(default=None)
    managed: Mapped[bool] = mapped_column(server_default=text("true"), default=True)
    status: Mapped[str] = mapped_column(server_default=text("'active'"), default="active")
    ssh_user: Mapped[str] = mapped_column(server_default=text("'root'"), default="root")
    ssh_port: Mapped[int] = mapped_column(Integer, server_default=text("22"), default=22)
    notes: Mapped[str | None] = mapped_column(default=None)
    labels: Mapped[dict[str, Any]] = mapped_column(
        server_default=text("'{}'::jsonb"), default_factory=dict
    )
    maintenance_from: Mapped[datetime | None] = mapped_column(default=None)
    maintenance_until: Mapped[datetime | None] = mapped_column(default=None)
    provisioning_attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"), default=0)
    provisioning_started_at: Mapped[datetime | None] = mapped_column(default=None)
    provisioning_request: Mapped[UUID | None] = mapped_column(default=None)
    provisioning_requested_at: Mapped[datetime | None] = mapped_column(default=None)
    provisioning_published_at: Mapped[datetime | None] = mapped_column(default=None)
    health: Mapped[dict[str, Any]] = mapped_column(
        server_default=text("'{}'::jsonb"), default_factory=dict
    )
    last_health_check_at: Mapped[datetime | None] = mapped_column(default=None)
    gone_cycle: Mapped[str | None] = mapped_column(default=None)
    """The sweep in which it went missing."""
    created_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)
    updated_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)
    last_seen_at: Mapped[datetime | None] = mapped_column(default=None)


class ServerChange(Base):
    """One change of a server's status, as a trigger saw it.

    `before` is null for a server that was made, `after` for one that was deleted.
    """

    __tablename__ = "server_changes"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True, init=False)
    who: Mapped[str]
    tenant: Mapped[str]
    server_id: Mapped[UUID]
    handle: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"), default=None)
    before: Mapped[str | None] = mapped_column(default=None)
    after: Mapped[str | None] = mapped_column(default=None)


class Incident(Base):
    """Something that is wrong with a server, or with none in particular.

    At most one is open of each tenant, server, kind and `about`.
    """

    __tablename__ = "incidents"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant", "server"], ["servers.tenant", "servers.handle"], ondelete="CASCADE"
        ),
    )

    id: Mapped[UUID] = mapped_column(
        primary_key=True, server_default=text("gen_random_uuid()"), init=False
    )
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.slug", ondelete="CASCADE"))
    kind: Mapped[str]
    severity: Mapped[str]
    title: Mapped[str]
    server: Mapped[str | None] = mapped_column(default=None)
    about: Mapped[str] = mapped_column(server_default=text("''"), default="")
    status: Mapped[str] = mapped_column(server_default=text("'detected'"), default="detected")
    details: Mapped[dict[str, Any]] = mapped_column(
        server_default=text("'{}'::jsonb"), default_factory=dict
    )
    detected_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)
    resolved_at: Mapped[datetime | None] = mapped_column(default=None)
    last_seen_at: Mapped[datetime] = mapped_column(server_default=text("now()"), default=None)
    recovery_attempts: Mapped[int] = mapped_column(Integer, server_default=text("0"), default=0)


class Notice(Base):
    """What people are to be told, once.

    `blocks` are those to send it through; null where that is up to whoever claims it.
    """

    __tablename__ = "notices"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=True, init=False)
    tenant: Mapped[str] = mapped_column(ForeignKey("tenants.slug", ondelete="CASCADE"))
    kind: Mapped[str]
    severity: Mapped[str]
    subject: Mapped[str]
    text: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=func.now(), default=None)
    claimed_at: Mapped[datetime | None] = mapped_column(default=None)
    blocks: Mapped[list[str] | None] = mapped_column(default=None)


async def hold(session: AsyncSession, tenant: str, kind: str) -> bool:
    """Keep others from writing records of a kind of a tenant until the transaction ends.

    Returns:
        Whether there is such a tenant.
    """
    key = func.hashtextextended(f"{tenant}/{kind}", 0)
    await session.execute(select(func.pg_advisory_xact_lock(key)))
    # Shared: a tenant that is being deleted is waited for, others write beside.
    found = await session.get(Tenant, tenant, with_for_update={"read": True, "key_share": True})
    return found is not None


@asynccontextmanager
async def held(
    engine: AsyncEngine, tenant: str, who: str | None = None
) -> AsyncIterator[AsyncSession]:
    """Yield a session in which nobody else writes a tenant's fleet; it is committed in the end.

    Servers and incidents are held as one, for a check writes both.

    Args:
        engine: The database.
        tenant: Whose.
        who: In whose name.

    Raises:
        sqlalchemy.exc.NoResultFound: There is no such tenant.
    """
    async with writing(engine, who) as session:
        if not await hold(session, tenant, "servers"):
            raise NoResultFound
        yield session
