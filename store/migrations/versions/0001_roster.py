"""Tenants, definitions, the notes of their changes, and Rota's own marks."""

from alembic import op

revision = "0001"
down_revision = None

# Written out, not imported: a migration does not change when the models do.
WATCHED = (
    "id tenant name title description duty parameters cron interval_seconds anchor_at run_at "
    "timezone day_and starts_at ends_at enabled paused_until pause_note overlap retries "
    "retry_delay_seconds timeout_seconds work_pool job_variables tags keep_runs"
).split()

SLUG = r"'^[a-z0-9]+(-[a-z0-9]+)*$'"


def _dates(*columns: str, but: str = "") -> str:
    # PostgreSQL's go far beyond what Python can read.
    return ",\n".join(
        f"""    constraint "{column}: from the year 1900 to 9000{but and f", or {but}"}"
        check ({column} between '1900-01-01 00:00Z' and '9000-01-01 00:00Z'
            {but and f"or not isfinite({column})"})"""
        for column in columns
    )


def _json(column: str) -> str:
    # What Python's and Prefect's readers of JSON give up on.
    return f"""    constraint "{column}: numbers of at most 64 bits"
        check (not jsonb_path_exists({column}, 'strict $.** ? (
            @ > 9223372036854775807 || @ < -9223372036854775808)')),
    constraint "{column}: nested at most 64 deep"
        check (not jsonb_path_exists({column}, 'strict $.**{{65}}'))"""


# ruff: noqa: S608
TABLES = f"""
create table tenants (
    slug text primary key
        constraint "slug: lower-case letters, digits, single dashes; at most 63"
        check (slug ~ {SLUG} and length(slug) <= 63),
    title text,
    suspended boolean not null default false,
    suspended_reason text,
    suspended_at timestamptz,

{_dates("suspended_at")}
);

create table definitions (
    id uuid primary key default gen_random_uuid(),
    tenant text not null references tenants (slug) on delete cascade,
    name text not null
        constraint "name: lower-case letters, digits, single dashes; at most 63"
        check (name ~ {SLUG} and length(name) <= 63),
    title text
        constraint "title: at most 255 characters" check (length(title) <= 255),
    description text
        constraint "description: at most 16384 characters" check (length(description) <= 16384),
    duty text not null
        constraint "duty: at most 255 characters" check (length(duty) <= 255),
    parameters jsonb not null default '{{}}'
        constraint "parameters: a JSON object"
        check (jsonb_typeof(parameters) = 'object')
        constraint "parameters: at most 512 KiB as text"
        check (octet_length(parameters::text) <= 524288),
    cron text
        constraint "cron: at most 255 characters" check (length(cron) <= 255),
    interval_seconds bigint
        constraint "interval_seconds: at least 60" check (interval_seconds >= 60),
    anchor_at timestamptz,
    run_at timestamptz,
    timezone text not null default 'UTC',
    day_and boolean not null default false,
    starts_at timestamptz,
    ends_at timestamptz,
    enabled boolean not null default true,
    paused_until timestamptz,
    pause_note text,
    overlap text not null default 'allow'
        constraint "overlap: allow, skip or queue" check (overlap in ('allow', 'skip', 'queue')),
    retries integer not null default 0
        constraint "retries: 0 to 100" check (retries between 0 and 100),
    retry_delay_seconds integer not null default 0
        constraint "retry_delay_seconds: 0 to 86400"
        check (retry_delay_seconds between 0 and 86400),
    timeout_seconds double precision
        constraint "timeout_seconds: above 0, or null for none"
        check (timeout_seconds > 0 and timeout_seconds < 'infinity'),
    work_pool text,
    job_variables jsonb not null default '{{}}'
        constraint "job_variables: a JSON object"
        check (jsonb_typeof(job_variables) = 'object')
        constraint "job_variables: at most 64 KiB as text"
        check (octet_length(job_variables::text) <= 65536),
    tags text[] not null default '{{}}'
        constraint "tags: one list of at most 20, none of them null"
        check (case when coalesce(array_ndims(tags), 1) > 1 then false
               else cardinality(tags) <= 20 and array_position(tags, null) is null end),
    keep_runs integer not null default 10
        constraint "keep_runs: at least 1" check (keep_runs >= 1),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    created_by text default current_user,

    deployment_id uuid,
    fingerprint text,
    applied_at timestamptz,
    problem text,
    next_run_at timestamptz,
    last_run_at timestamptz,
    last_status text,
    run_count bigint not null default 0
        constraint "run_count: from 0 to 10^15" check (run_count between 0 and 1000000000000000),

    constraint "name: unique in its tenant" unique (tenant, name),
    constraint "cron, interval_seconds, run_at: one of them or none"
        check (num_nonnulls(cron, interval_seconds, run_at) <= 1),
    constraint "anchor_at: only with interval_seconds"
        check (anchor_at is null or interval_seconds is not null),
    constraint "ends_at: later than starts_at" check (ends_at > starts_at),
{_dates("anchor_at", "run_at", "created_at", "updated_at")},
{_dates("applied_at", "next_run_at", "last_run_at")},
{_dates("starts_at", "ends_at", "paused_until", but="infinity")},
{_json("parameters")},
{_json("job_variables")}
);
create index ix_definitions_deployment_id on definitions (deployment_id);
create index ix_definitions_duty on definitions (duty);
create index ix_definitions_next_run_at on definitions (next_run_at)
    where next_run_at is not null;
create index ix_definitions_problem on definitions (tenant, name) where problem is not null;
create index ix_definitions_starts_at on definitions (starts_at) where starts_at is not null;
create index ix_definitions_ends_at on definitions (ends_at) where ends_at is not null;
create index ix_definitions_paused_until on definitions (paused_until)
    where paused_until is not null;

create table changes (
    id bigserial primary key,
    operation text not null,
    tenant text,
    name text,
    definition_id uuid,
    noted_at timestamptz not null default clock_timestamp(),
    started_at timestamptz,
    due_at timestamptz not null default clock_timestamp(),

{_dates("noted_at", "started_at", "due_at")}
);

create table marks (
    name text primary key,
    at timestamptz not null default now(),
    value jsonb not null default 'null'
);
insert into marks (name, value) values
    ('instance', to_jsonb(left(replace(gen_random_uuid()::text, '-', ''), 12))),
    ('runs', '[]');
"""

KEEP_IDENTITY = """
create function rota_keep_identity() returns trigger language plpgsql
set search_path from current as $$
begin
    if (new.id, new.tenant, new.name) is distinct from (old.id, old.tenant, old.name) then
        raise exception 'name: %/% cannot become %/%', old.tenant, old.name, new.tenant, new.name
            using errcode = 'integrity_constraint_violation',
                  hint = 'Names do not change after creation. Insert a new row and delete this '
                         'one, or give it another title.';
    end if;
    new.updated_at := clock_timestamp();
    return new;
end $$;
"""

# They write for whoever wrote: a role may have rights on `definitions` and no others.
NOTE_DEFINITION = """
create function rota_note_definition() returns trigger language plpgsql
security definer set search_path from current as $$
declare
    subject definitions := case when tg_op = 'DELETE' then old else new end;
begin
    insert into changes (operation, tenant, name, definition_id)
        values (lower(tg_op), subject.tenant, subject.name, subject.id);
    perform pg_notify('rota', '');
    return null;
end $$;
"""

NOTE_TENANT = """
create function rota_note_tenant() returns trigger language plpgsql
security definer set search_path from current as $$
begin
    insert into changes (operation, tenant)
        values (lower(tg_op), case when tg_op = 'DELETE' then old.slug else new.slug end);
    perform pg_notify('rota', '');
    return null;
end $$;
"""

NOTE_TRUNCATE = """
create function rota_note_truncate() returns trigger language plpgsql
security definer set search_path from current as $$
begin
    insert into changes (operation) values ('truncate');
    perform pg_notify('rota', '');
    return null;
end $$;
"""


def _row(prefix: str) -> str:
    return "(" + ", ".join(f"{prefix}.{column}" for column in WATCHED) + ")"


TRIGGERS = f"""
create trigger rota_keep_identity before update on definitions for each row
    when ({_row("old")} is distinct from {_row("new")}) execute function rota_keep_identity();
create trigger rota_note_written after insert or delete on definitions
    for each row execute function rota_note_definition();
create trigger rota_note_changed after update on definitions for each row
    when ({_row("old")} is distinct from {_row("new")})
    execute function rota_note_definition();
create trigger rota_note_written after insert or delete on tenants
    for each row execute function rota_note_tenant();
create trigger rota_note_changed after update on tenants for each row
    when (old.suspended is distinct from new.suspended) execute function rota_note_tenant();
create trigger rota_note_truncated after truncate on definitions
    for each statement execute function rota_note_truncate();
create trigger rota_note_truncated after truncate on tenants
    for each statement execute function rota_note_truncate();
"""


def upgrade() -> None:
    functions = (KEEP_IDENTITY, NOTE_DEFINITION, NOTE_TENANT, NOTE_TRUNCATE)
    # asyncpg takes one statement at a time; a function's body is one.
    for statement in (*TABLES.split(";\n"), *functions, *TRIGGERS.split(";\n")):
        if statement.strip():
            op.execute(statement)
