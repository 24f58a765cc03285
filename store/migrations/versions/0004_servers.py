"""The fleet: servers, every change of their status, incidents, notices."""

from alembic import op

revision = "0004"
down_revision = "0003"

SLUG = r"'^[a-z0-9]+(-[a-z0-9]+)*$'"


def _slug(column: str) -> str:
    return f"""{column} text not null
        constraint "{column}: lower-case letters, digits, single dashes; at most 63"
        check ({column} ~ {SLUG} and length({column}) <= 63)"""


def _dates(*columns: str) -> str:
    # PostgreSQL's go far beyond what Python can read.
    return ",\n".join(
        f"""    constraint "{column}: from the year 1900 to 9000"
        check ({column} between '1900-01-01 00:00Z' and '9000-01-01 00:00Z')"""
        for column in columns
    )


def _amounts(*columns: str) -> str:
    return ",\n".join(
        f"""    {column} bigint
        constraint "{column}: at least 0" check ({column} >= 0)"""
        for column in columns
    )


TABLES = f"""
create table servers (
    id uuid primary key default gen_random_uuid(),
    tenant text not null references tenants (slug) on delete cascade,
    {_slug("handle")},
    {_slug("provider")} default 'manual',
    provider_id text
        constraint "provider_id: 1 to 200 characters" check (length(provider_id) between 1 and 200),
    host text
        constraint "host: at most 255 characters" check (length(host) <= 255),
    public_ip text
        constraint "public_ip: an IP address" check (public_ip ~ '^[0-9A-Fa-f:.]{{2,45}}$'),
    addresses text[] not null default '{{}}',
{_amounts("capacity_cpu", "capacity_ram_mb", "capacity_disk_mb", "used_ram_mb", "used_disk_mb")},
    os_template text
        constraint "os_template: at most 255 characters" check (length(os_template) <= 255),
    provider_status text
        constraint "provider_status: at most 255 characters" check (length(provider_status) <= 255),
    managed boolean not null default true,
    status text not null default 'active'
        constraint "status: one that a server can have"
        check (status in ('discovered', 'pending_setup', 'provisioning', 'ready', 'in_use',
            'active', 'error', 'unreachable', 'degraded', 'maintenance', 'reserved', 'missing',
            'decommissioned')),
    ssh_user text not null default 'root'
        constraint "ssh_user: 1 to 64 characters" check (length(ssh_user) between 1 and 64),
    ssh_port integer not null default 22
        constraint "ssh_port: 1 to 65535" check (ssh_port between 1 and 65535),
    notes text
        constraint "notes: at most 16384 characters" check (length(notes) <= 16384),
    labels jsonb not null default '{{}}'
        constraint "labels: a JSON object" check (jsonb_typeof(labels) = 'object'),
    maintenance_from timestamptz,
    maintenance_until timestamptz,
    provisioning_attempts integer not null default 0,
    provisioning_started_at timestamptz,
    provisioning_request uuid,
    provisioning_requested_at timestamptz,
    provisioning_published_at timestamptz,
    health jsonb not null default '{{}}'
        constraint "health: a JSON object" check (jsonb_typeof(health) = 'object'),
    last_health_check_at timestamptz,
    gone_cycle text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    last_seen_at timestamptz,

    constraint "handle: unique in its tenant" unique (tenant, handle),
    constraint "provider_id: unique with its provider" unique (tenant, provider, provider_id),
    constraint "maintenance_until: later than maintenance_from"
        check (maintenance_until > maintenance_from),
{_dates("maintenance_from", "maintenance_until", "created_at", "updated_at", "last_seen_at")},
{_dates("provisioning_started_at", "provisioning_requested_at", "provisioning_published_at")},
{_dates("last_health_check_at")}
);

create table server_changes (
    id bigserial primary key,
    at timestamptz not null default clock_timestamp(),
    who text not null,
    tenant text not null,
    server_id uuid not null,
    handle text not null,
    before text,
    after text
);
create index ix_server_changes_server on server_changes (server_id, id);

create table incidents (
    id uuid primary key default gen_random_uuid(),
    tenant text not null references tenants (slug) on delete cascade,
    server text,
    kind text not null
        constraint "kind: lower-case letters, digits and underscores; at most 63"
        check (kind ~ '^[a-z][a-z0-9_]{{0,62}}$'),
    about text not null default ''
        constraint "about: at most 200 characters" check (length(about) <= 200),
    status text not null default 'detected'
        constraint "status: detected, recovering or resolved"
        check (status in ('detected', 'recovering', 'resolved')),
    severity text not null
        constraint "severity: warning or critical" check (severity in ('warning', 'critical')),
    title text not null,
    details jsonb not null default '{{}}'
        constraint "details: a JSON object" check (jsonb_typeof(details) = 'object'),
    detected_at timestamptz not null default now(),
    resolved_at timestamptz,
    last_seen_at timestamptz not null default now(),
    recovery_attempts integer not null default 0,

    foreign key (tenant, server) references servers (tenant, handle) on delete cascade,
    constraint "resolved_at: of those that are resolved"
        check ((status = 'resolved') = (resolved_at is not null)),
{_dates("detected_at", "resolved_at", "last_seen_at")}
);
create unique index "kind: one open incident of a kind"
    on incidents (tenant, coalesce(server, ''), kind, about) where status <> 'resolved';
create index ix_incidents_detected on incidents (tenant, detected_at, id);
create index ix_incidents_server on incidents (tenant, server);

create table notices (
    id bigserial primary key,
    tenant text not null references tenants (slug) on delete cascade,
    kind text not null,
    severity text not null
        constraint "severity: info, warning or critical"
        check (severity in ('info', 'warning', 'critical')),
    subject text not null,
    text text not null,
    at timestamptz not null default now(),
    claimed_at timestamptz
);
create index ix_notices_at on notices (tenant, at);
create index ix_notices_waiting on notices (tenant, id) where claimed_at is null;
"""

# A request to set a server up lives as long as its status asks for it, whoever changes that.
KEEP_SERVER = """
create function rota_keep_server() returns trigger language plpgsql
set search_path from current as $$
declare
    own text[] := '{health,last_health_check_at,last_seen_at,gone_cycle,updated_at}';
begin
    if tg_op = 'UPDATE' then
        if (new.id, new.tenant, new.handle) is distinct from (old.id, old.tenant, old.handle) then
            raise exception 'handle: %/% cannot become %/%',
                old.tenant, old.handle, new.tenant, new.handle
                using errcode = 'integrity_constraint_violation';
        end if;
        if new.status <> old.status and new.status <> 'provisioning' then
            new.provisioning_started_at := null;
            new.provisioning_request := null;
            new.provisioning_requested_at := null;
            new.provisioning_published_at := null;
        end if;
        if to_jsonb(new) - own is distinct from to_jsonb(old) - own then
            new.updated_at := clock_timestamp();
        end if;
    end if;
    if new.status = 'provisioning' then
        new.provisioning_started_at := coalesce(new.provisioning_started_at, clock_timestamp());
    end if;
    return new;
end $$;
"""

NOTE_SERVER = """
create function rota_note_server() returns trigger language plpgsql
security definer set search_path from current as $$
declare
    subject servers := case when tg_op = 'DELETE' then old else new end;
begin
    insert into server_changes (who, tenant, server_id, handle, before, after) values (
        coalesce(nullif(current_setting('rota.who', true), ''), session_user),
        subject.tenant, subject.id, subject.handle,
        case when tg_op <> 'INSERT' then old.status end,
        case when tg_op <> 'DELETE' then new.status end);
    return null;
end $$;
"""

TRIGGERS = """
create trigger rota_keep_server before insert or update on servers
    for each row execute function rota_keep_server();
create trigger rota_note_written after insert or delete on servers
    for each row execute function rota_note_server();
create trigger rota_note_changed after update on servers for each row
    when (old.status is distinct from new.status) execute function rota_note_server();
"""


def upgrade() -> None:
    # asyncpg takes one statement at a time; a function's body is one.
    statements = (*TABLES.split(";\n"), KEEP_SERVER, NOTE_SERVER, *TRIGGERS.split(";\n"))
    for statement in statements:
        if statement.strip():
            op.execute(statement)
