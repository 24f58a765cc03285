"""Jobs: commands that wait for their turn, and how many of them may run at once."""

from alembic import op

revision = "0006"
down_revision = "0005"


def _dates(*columns: str) -> str:
    # PostgreSQL's go far beyond what Python can read.
    return ",\n".join(
        f"""    constraint "{column}: from the year 1900 to 9000"
        check ({column} between '1900-01-01 00:00Z' and '9000-01-01 00:00Z')"""
        for column in columns
    )


TABLES = f"""
create table jobs (
    id uuid primary key default gen_random_uuid(),
    tenant text not null references tenants (slug) on delete cascade,
    name text not null
        constraint "name: 1 to 255 characters, no slash, no control characters"
        check (name ~ '^[^/\\u0001-\\u001f\\u007f]+$' and length(name) <= 255
            and name not in ('.', '..')),
    command text not null
        constraint "command: 1 byte to 64 KiB"
        check (octet_length(command) between 1 and 65536),
    environment jsonb not null default '{{}}'
        constraint "environment: a JSON object" check (jsonb_typeof(environment) = 'object')
        constraint "environment: texts by names of letters, digits and underscores"
        check (not jsonb_path_exists(environment,
            'strict $.keyvalue() ? (!(@.key like_regex "^[A-Za-z_][A-Za-z0-9_]*$")
            || @.value.type() != "string")'))
        constraint "environment: at most 64 KiB as text"
        check (octet_length(environment::text) <= 65536),
    directory text
        constraint "directory: a path that begins with a slash, at most 4096 characters"
        check (directory ~ '^/' and length(directory) <= 4096),
    priority integer not null default 0
        constraint "priority: 0 to 9" check (priority between 0 and 9),
    timeout_seconds double precision
        constraint "timeout_seconds: above 0, or null for none"
        check (timeout_seconds > 0 and timeout_seconds < 'infinity'),
    retries integer not null default 0
        constraint "retries: 0 to 10" check (retries between 0 and 10),
    on_lost text not null default 'requeue'
        constraint "on_lost: requeue or fail" check (on_lost in ('requeue', 'fail')),
    status text not null default 'queued'
        constraint "status: queued, running, completed, failed or cancelled"
        check (status in ('queued', 'running', 'completed', 'failed', 'cancelled')),
    cancel_requested_at timestamptz,
    attempt integer not null default 1,
    failures integer not null default 0,
    losses integer not null default 0,
    run_id uuid,
    execution uuid,
    watched boolean not null default false,
    exit_code integer,
    output text
        constraint "output: at most 64 KiB" check (octet_length(output) <= 65536),
    error text
        constraint "error: at most 16384 characters" check (length(error) <= 16384),
    last_run timestamptz,
    queued_at timestamptz not null default clock_timestamp(),
    started_at timestamptz,
    finished_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    created_by text not null default
        coalesce(nullif(current_setting('rota.who', true), ''), session_user),

    constraint "name: unique among the jobs of its tenant" unique (tenant, name),
    constraint "status: a job runs when a worker has begun it"
        check (status <> 'running' or (execution is not null and started_at is not null)),
{_dates("cancel_requested_at", "last_run", "queued_at", "started_at", "finished_at")},
{_dates("created_at", "updated_at")}
);
create index ix_jobs_queued on jobs (tenant, priority desc, queued_at, id)
    where status = 'queued';
create index ix_jobs_running on jobs (tenant) where status = 'running';
create index ix_jobs_watched on jobs (id) where watched;
create index ix_jobs_created on jobs (tenant, created_at, id);

create table settings (
    tenant text not null references tenants (slug) on delete cascade,
    key text not null
        constraint "key: max_concurrent_jobs" check (key = 'max_concurrent_jobs'),
    value jsonb not null
        constraint "max_concurrent_jobs: a whole number from 0 to 1000"
        check (case when jsonb_typeof(value) = 'number'
               then value::numeric between 0 and 1000 and value::numeric % 1 = 0
               else false end),
    updated_at timestamptz not null default now(),

    primary key (tenant, key)
);
"""

# What is written by hand becomes what Rota can carry out: it alone ends what is running.
KEEP_JOB = """
create function rota_keep_job() returns trigger language plpgsql
set search_path from current as $$
declare
    own text[] := '{cancel_requested_at,attempt,failures,losses,run_id,execution,watched,exit_code,'
        'output,error,last_run,started_at,finished_at,updated_at}';
begin
    if tg_op = 'INSERT' then
        if new.status = 'running' then
            raise exception 'status: a job runs when a worker has begun it'
                using errcode = 'check_violation';
        elsif new.status <> 'queued' then
            new.finished_at := coalesce(new.finished_at, new.updated_at);
        end if;
        return new;
    end if;
    if tg_op = 'DELETE' then
        if old.status = 'running' then  -- nobody would end it, be it that its tenant goes
            raise exception 'status: the job %/% is running', old.tenant, old.name
                using errcode = 'integrity_constraint_violation',
                      hint = 'Cancel it first: update jobs set status = ''cancelled'' ...';
        end if;
        return old;
    end if;
    if (new.id, new.tenant, new.name) is distinct from (old.id, old.tenant, old.name) then
        raise exception 'name: %/% cannot become %/%', old.tenant, old.name, new.tenant, new.name
            using errcode = 'integrity_constraint_violation';
    end if;
    if old.status = 'running' and new.status = 'queued' and new.attempt = old.attempt
            and new.execution is not distinct from old.execution then
        raise exception 'status: the job %/% is running', old.tenant, old.name
            using errcode = 'integrity_constraint_violation',
                  hint = 'Cancel it first: update jobs set status = ''cancelled'' ...';
    end if;
    if new.status = 'running' and old.status <> 'running'
            and new.execution is not distinct from old.execution then
        raise exception 'status: a job runs when a worker has begun it'
            using errcode = 'check_violation',
                  hint = 'Queue it: update jobs set status = ''queued'' ...';
    end if;
    if new.status in ('completed', 'failed') and old.status in ('queued', 'running')
            and new.finished_at is not distinct from old.finished_at then
        raise exception 'status: that the job %/% has % is for its worker to say',
                old.tenant, old.name, new.status
            using errcode = 'integrity_constraint_violation',
                  hint = 'Cancel it instead: update jobs set status = ''cancelled'' ...';
    end if;
    if new.status = 'cancelled' and old.status in ('queued', 'running')
            and new.finished_at is not distinct from old.finished_at then
        new.cancel_requested_at := coalesce(new.cancel_requested_at, clock_timestamp());
        if old.status = 'running' then
            new.status := 'running';
        else
            new.finished_at := clock_timestamp();
        end if;
    end if;
    if old.status in ('completed', 'failed', 'cancelled') and new.status = 'queued' then
        new.attempt := old.attempt + 1;
        new.failures := 0;
        new.losses := 0;
        new.run_id := null;
        new.watched := false;
        new.exit_code := null;
        new.output := null;
        new.error := null;
        new.cancel_requested_at := null;
        new.queued_at := clock_timestamp();
        new.started_at := null;
        new.finished_at := null;
    end if;
    if to_jsonb(new) - own is distinct from to_jsonb(old) - own then
        new.updated_at := clock_timestamp();
    end if;
    return new;
end $$;
"""

# It writes for whoever queues: a role may have rights on `jobs` and no others.
NOTE_JOB = """
create function rota_note_job() returns trigger language plpgsql
security definer set search_path from current as $$
begin
    if new.status = 'queued' then
        insert into definitions (tenant, name, duty, title, created_by)
            values (new.tenant, 'jobs', 'run_job', 'Jobs', 'rota')
            on conflict (tenant, name) do nothing;
        if not found and not exists (select from definitions
                where tenant = new.tenant and name = 'jobs' and duty = 'run_job') then
            raise exception 'tenant: the definition %/jobs is of another duty', new.tenant
                using errcode = 'integrity_constraint_violation',
                      hint = 'Jobs run by the definition `jobs` of the duty `run_job`. Give the '
                             'other one another name.';
        end if;
    end if;
    perform pg_notify('rota_jobs', '');
    return null;
end $$;
"""

# Without it, jobs would wait for nothing.
KEEP_JOBS = """
create function rota_keep_jobs() returns trigger language plpgsql
security definer set search_path from current as $$
begin
    if exists (select from jobs where tenant = old.tenant and status in ('queued', 'running'))
            and exists (select from tenants where slug = old.tenant) then
        raise exception 'name: jobs wait that run by the definition %/jobs', old.tenant
            using errcode = 'integrity_constraint_violation',
                  hint = 'Pause it, or cancel them first: update jobs set status = ''cancelled'' '
                         'where tenant = ... and status in (''queued'', ''running'')';
    end if;
    return case when tg_op = 'DELETE' then old else new end;
end $$;
"""

NOTE_SETTING = """
create function rota_note_setting() returns trigger language plpgsql
set search_path from current as $$
begin
    perform pg_notify('rota_jobs', '');
    return null;
end $$;
"""

# An environment may hold secrets, so the audit does not keep it.
HIDDEN = (
    "environment,attempt,failures,losses,run_id,execution,watched,exit_code,output,error,last_run,"
    "started_at,finished_at,updated_at"
)
USERS = (
    "name command environment directory priority timeout_seconds retries on_lost "
    "cancel_requested_at"
).split()


def _row(prefix: str) -> str:
    return "(" + ", ".join(f"{prefix}.{column}" for column in USERS) + ")"


TRIGGERS = f"""
create trigger rota_keep_job before insert or update or delete on jobs
    for each row execute function rota_keep_job();
create trigger rota_keep_jobs before delete on definitions for each row
    when (old.name = 'jobs' and old.duty = 'run_job') execute function rota_keep_jobs();
create trigger rota_keep_jobs_duty before update on definitions for each row
    when (old.name = 'jobs' and old.duty = 'run_job' and new.duty <> 'run_job')
    execute function rota_keep_jobs();
create trigger rota_note_written after insert on jobs
    for each row execute function rota_note_job();
create trigger rota_note_changed after update on jobs for each row
    when (new.status is distinct from old.status
        or new.cancel_requested_at is distinct from old.cancel_requested_at
        or new.attempt is distinct from old.attempt)
    execute function rota_note_job();
create trigger rota_note_written after insert or update or delete on settings
    for each row execute function rota_note_setting();
create trigger rota_audit_written after insert or delete on jobs
    for each row execute function rota_audit('job', '{{{HIDDEN}}}');
create trigger rota_audit_changed after update on jobs for each row
    when ({_row("old")} is distinct from {_row("new")}
        or (new.status = 'queued' and old.status in ('completed', 'failed', 'cancelled')))
    execute function rota_audit('job', '{{{HIDDEN}}}');
create trigger rota_audit_truncated after truncate on jobs
    for each statement execute function rota_audit_truncate('job');
create trigger rota_audit_written after insert or delete or update on settings
    for each row execute function rota_audit('setting', '{{updated_at}}');
create trigger rota_audit_truncated after truncate on settings
    for each statement execute function rota_audit_truncate('setting');
"""


def upgrade() -> None:
    functions = (KEEP_JOB, NOTE_JOB, KEEP_JOBS, NOTE_SETTING)
    # asyncpg takes one statement at a time; a function's body is one.
    for statement in (*TABLES.split(";\n"), *functions, *TRIGGERS.split(";\n")):
        if statement.strip():
            op.execute(statement)
