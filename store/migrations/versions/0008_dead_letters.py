"""Runs that have failed for good: dead letters."""

from alembic import op

revision = "0008"
down_revision = "0007"


def _dates(*columns: str) -> str:
    # PostgreSQL's go far beyond what Python can read.
    return ",\n".join(
        f"""    constraint "{column}: from the year 1900 to 9000"
        check ({column} between '1900-01-01 00:00Z' and '9000-01-01 00:00Z')"""
        for column in columns
    )


TABLES = f"""
create table dead_letters (
    id uuid primary key default gen_random_uuid(),
    tenant text not null references tenants (slug) on delete cascade,
    definition_id uuid not null,
    name text not null,
    run_id uuid not null
        constraint "run_id: unique" unique,
    occurrence timestamptz not null,
    trigger text not null
        constraint "trigger: schedule or manual" check (trigger in ('schedule', 'manual')),
    parameters jsonb not null default '{{}}'
        constraint "parameters: a JSON object" check (jsonb_typeof(parameters) = 'object'),
    error text not null default ''
        constraint "error: at most 4096 characters" check (length(error) <= 4096),
    attempts integer not null default 1,
    first_at timestamptz not null,
    last_at timestamptz not null,
    status text not null default 'open'
        constraint "status: open, replayed or discarded"
        check (status in ('open', 'replayed', 'discarded')),
    note text
        constraint "note: at most 1024 characters" check (length(note) <= 1024),
    replays integer not null default 0,
    replay_run_id uuid,
    replay_due timestamptz,
    decided_at timestamptz,
    decided_by text,

    constraint "decided_at: of those that are not open"
        check (status = 'open' or decided_at is not null),
{_dates("occurrence", "first_at", "last_at", "replay_due", "decided_at")}
);
create index ix_dead_letters_last on dead_letters (tenant, last_at, id);
create index ix_dead_letters_open on dead_letters (tenant, first_at, id) where status = 'open';
create index ix_dead_letters_due on dead_letters (tenant, replay_due);
create index ix_dead_letters_definition on dead_letters (definition_id);
"""


def upgrade() -> None:
    for statement in TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)
