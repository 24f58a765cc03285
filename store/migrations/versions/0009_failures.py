"""Failures in a row: what pauses a definition, and what people are told of it."""

from alembic import op

revision = "0009"
down_revision = "0008"

# Written out, not imported: a migration does not change when the models do.
WATCHED = (
    "id tenant name title description duty parameters inputs cron interval_seconds anchor_at "
    "run_at timezone day_and starts_at ends_at enabled paused_until pause_note overlap retries "
    "retry_delay_seconds timeout_seconds work_pool job_variables tags keep_runs "
    "pause_after_failures notify notify_on notify_after"
).split()
STATUS = (
    "deployment_id fingerprint applied_at problem next_run_at last_run_at last_status run_count "
    "failures outcome revision"
).split()

TABLES = """
alter table definitions
    add column pause_after_failures integer
        constraint "pause_after_failures: 1 to 1000, or null for never"
        check (pause_after_failures between 1 and 1000),
    add column notify text[] not null default '{}'
        constraint "notify: one list of at most 20, none of them null"
        check (case when coalesce(array_ndims(notify), 1) > 1 then false
               else cardinality(notify) <= 20 and array_position(notify, null) is null end),
    add column notify_on text[] not null default '{failure,recovery}'
        constraint "notify_on: one list of failure, recovery, success"
        check (coalesce(array_ndims(notify_on), 1) = 1 and cardinality(notify_on) <= 3
               and notify_on <@ '{failure,recovery,success}'),
    add column notify_after integer not null default 1
        constraint "notify_after: 1 to 1000" check (notify_after between 1 and 1000),
    add column failures integer not null default 0
        constraint "failures: at least 0" check (failures >= 0),
    add column outcome text
        constraint "outcome: failure or success" check (outcome in ('failure', 'success'));
alter table notices
    add column blocks text[];
create index ix_server_changes_at on server_changes (tenant, at);
"""

# Whoever lets a definition run again lets the counting begin again.
KEEP_IDENTITY = """
create or replace function rota_keep_identity() returns trigger language plpgsql
set search_path from current as $$
begin
    if (new.id, new.tenant, new.name) is distinct from (old.id, old.tenant, old.name) then
        raise exception 'name: %/% cannot become %/%', old.tenant, old.name, new.tenant, new.name
            using errcode = 'integrity_constraint_violation',
                  hint = 'Names do not change after creation. Insert a new row and delete this '
                         'one, or give it another title.';
    end if;
    if new.enabled and not old.enabled then
        new.failures := 0;
    end if;
    new.updated_at := clock_timestamp();
    new.revision := old.revision + 1;
    return new;
end $$;
"""


def _row(prefix: str) -> str:
    return "(" + ", ".join(f"{prefix}.{column}" for column in WATCHED) + ")"


TRIGGERS = f"""
drop trigger rota_keep_identity on definitions;
drop trigger rota_note_changed on definitions;
drop trigger rota_audit_written on definitions;
drop trigger rota_audit_changed on definitions;
create trigger rota_keep_identity before update on definitions for each row
    when ({_row("old")} is distinct from {_row("new")}) execute function rota_keep_identity();
create trigger rota_note_changed after update on definitions for each row
    when ({_row("old")} is distinct from {_row("new")})
    execute function rota_note_definition();
create trigger rota_audit_written after insert or delete on definitions
    for each row execute function rota_audit('definition', '{{{",".join(STATUS)}}}');
create trigger rota_audit_changed after update on definitions for each row
    when ({_row("old")} is distinct from {_row("new")})
    execute function rota_audit('definition', '{{{",".join(STATUS)}}}');
"""


def upgrade() -> None:
    # asyncpg takes one statement at a time; a function's body is one.
    for statement in (*TABLES.split(";\n"), KEEP_IDENTITY, *TRIGGERS.split(";\n")):
        if statement.strip():
            op.execute(statement)
