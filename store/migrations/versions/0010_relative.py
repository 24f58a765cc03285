"""Relative schedules: once, so long after the previous run has ended."""

from alembic import op

revision = "0010"
down_revision = "0009"

# Written out, not imported: a migration does not change when the models do.
WATCHED = (
    "id tenant name title description duty parameters inputs cron interval_seconds anchor_at "
    "run_at after_seconds timezone day_and starts_at ends_at enabled paused_until pause_note "
    "overlap retries retry_delay_seconds timeout_seconds work_pool job_variables tags keep_runs "
    "pause_after_failures notify notify_on notify_after"
).split()
STATUS = (
    "deployment_id fingerprint applied_at problem next_run_at last_run_at last_status run_count "
    "failures outcome after_at revision"
).split()

TABLES = """
alter table definitions
    add column after_seconds bigint
        constraint "after_seconds: 1 to 315360000"
        check (after_seconds between 1 and 315360000),
    add column after_at timestamptz
        constraint "after_at: from the year 1900 to 9000"
        check (after_at between '1900-01-01 00:00Z' and '9000-01-01 00:00Z'),
    drop constraint "cron, interval_seconds, run_at: one of them or none",
    add constraint "cron, interval_seconds, run_at, after_seconds: at most one"
        check (num_nonnulls(cron, interval_seconds, run_at, after_seconds) <= 1);
create index ix_definitions_after_at on definitions (after_at) where after_at is not null;
"""

# From when on `after_seconds` counts. Null once it has run: then nothing more is due.
COUNT_AFTER = """
create function rota_count_after() returns trigger language plpgsql
set search_path from current as $$
begin
    if new.after_seconds is null then
        new.after_at := null;
    elsif tg_op = 'INSERT' then
        new.after_at := clock_timestamp();
    elsif new.after_seconds is distinct from old.after_seconds
            or (new.enabled and not old.enabled)
            or (new.paused_until is null and old.paused_until is not null) then
        new.after_at := clock_timestamp();
    end if;
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
create trigger rota_count_after
    before insert or update of after_seconds, enabled, paused_until on definitions
    for each row execute function rota_count_after();
create trigger rota_keep_identity before update on definitions for each row
    when ({_row("old")} is distinct from {_row("new")}) execute function rota_keep_identity();
create trigger rota_note_changed after update on definitions for each row
    when ({_row("old")} is distinct from {_row("new")}
        or old.after_at is distinct from new.after_at)
    execute function rota_note_definition();
create trigger rota_audit_written after insert or delete on definitions
    for each row execute function rota_audit('definition', '{{{",".join(STATUS)}}}');
create trigger rota_audit_changed after update on definitions for each row
    when ({_row("old")} is distinct from {_row("new")}
        or (old.after_at is null and new.after_at is not null))
    execute function rota_audit('definition', '{{{",".join(STATUS)}}}');
"""


def upgrade() -> None:
    # asyncpg takes one statement at a time; a function's body is one.
    for statement in (*TABLES.split(";\n"), COUNT_AFTER, *TRIGGERS.split(";\n")):
        if statement.strip():
            op.execute(statement)
