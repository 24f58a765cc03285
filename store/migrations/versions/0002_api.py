"""Who may call and who wrote what: tokens, the audit, declared inputs, revisions."""

from alembic import op

revision = "0002"
down_revision = "0001"

# Written out, not imported: a migration does not change when the models do.
WATCHED = (
    "id tenant name title description duty parameters inputs cron interval_seconds anchor_at "
    "run_at timezone day_and starts_at ends_at enabled paused_until pause_note overlap retries "
    "retry_delay_seconds timeout_seconds work_pool job_variables tags keep_runs"
).split()
STATUS = (
    "deployment_id fingerprint applied_at problem next_run_at last_run_at last_status run_count "
    "revision"
).split()
TOKEN = "id name role tenant hash created_at created_by expires_at".split()  # not its last use

TABLES = """
alter table definitions
    add column inputs jsonb not null default '[]'
        constraint "inputs: a list" check (jsonb_typeof(inputs) = 'array')
        constraint "inputs: at most 64 KiB as text"
        check (octet_length(inputs::text) <= 65536)
        constraint "inputs: numbers of at most 64 bits"
        check (not jsonb_path_exists(inputs, 'strict $.** ? (
            @ > 9223372036854775807 || @ < -9223372036854775808)'))
        constraint "inputs: nested at most 64 deep"
        check (not jsonb_path_exists(inputs, 'strict $.**{65}')),
    add column revision bigint not null default 1;
create index ix_definitions_created on definitions (tenant, created_at, id);

create table tokens (
    id uuid primary key default gen_random_uuid(),
    name text not null
        constraint "name: 1 to 63 characters" check (length(name) between 1 and 63),
    role text not null
        constraint "role: admin, editor, viewer or worker"
        check (role in ('admin', 'editor', 'viewer', 'worker')),
    tenant text references tenants (slug) on delete cascade,
    hash bytea not null unique,
    created_at timestamptz not null default now(),
    created_by text not null default session_user,
    expires_at timestamptz,
    last_used_at timestamptz,

    constraint "expires_at: from the year 1900 to 9000"
        check (expires_at between '1900-01-01 00:00Z' and '9000-01-01 00:00Z')
);

create table audit (
    id bigserial primary key,
    at timestamptz not null default clock_timestamp(),
    who text not null,
    operation text not null,
    kind text not null,
    tenant text,
    name text,
    before jsonb,
    after jsonb
);
create index ix_audit_tenant on audit (tenant, id);
create index ix_audit_at on audit (at);
create view delete_requests as
    select id, at, who, tenant, name, before as definition
    from audit where kind = 'definition' and operation = 'delete';
"""

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
    new.updated_at := clock_timestamp();
    new.revision := old.revision + 1;
    return new;
end $$;
"""

# Whoever writes by SQL is known by the name of their session; the API names its caller.
AUDIT = """
create function rota_audit() returns trigger language plpgsql
security definer set search_path from current as $$
declare
    hidden text[] := tg_argv[1]::text[];
    was jsonb := case when tg_op in ('UPDATE', 'DELETE') then to_jsonb(old) - hidden end;
    is_ jsonb := case when tg_op in ('UPDATE', 'INSERT') then to_jsonb(new) - hidden end;
    one jsonb := coalesce(is_, was);
begin
    insert into audit (who, operation, kind, tenant, name, before, after) values (
        coalesce(nullif(current_setting('rota.who', true), ''), session_user),
        lower(tg_op), tg_argv[0], coalesce(one ->> 'tenant', one ->> 'slug'), one ->> 'name',
        was, is_);
    return null;
end $$;
"""

AUDIT_TRUNCATE = """
create function rota_audit_truncate() returns trigger language plpgsql
security definer set search_path from current as $$
begin
    insert into audit (who, operation, kind) values (
        coalesce(nullif(current_setting('rota.who', true), ''), session_user), 'truncate',
        tg_argv[0]);
    return null;
end $$;
"""


def _row(prefix: str, columns: list[str] = WATCHED) -> str:
    return "(" + ", ".join(f"{prefix}.{column}" for column in columns) + ")"


TRIGGERS = f"""
drop trigger rota_keep_identity on definitions;
drop trigger rota_note_changed on definitions;
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
create trigger rota_audit_truncated after truncate on definitions
    for each statement execute function rota_audit_truncate('definition');
create trigger rota_audit_written after insert or delete on tenants
    for each row execute function rota_audit('tenant', '{{}}');
create trigger rota_audit_changed after update on tenants for each row
    when (old.* is distinct from new.*) execute function rota_audit('tenant', '{{}}');
create trigger rota_audit_truncated after truncate on tenants
    for each statement execute function rota_audit_truncate('tenant');
create trigger rota_audit_written after insert or delete on tokens
    for each row execute function rota_audit('token', '{{hash,last_used_at}}');
create trigger rota_audit_changed after update on tokens for each row
    when ({_row("old", TOKEN)} is distinct from {_row("new", TOKEN)})
    execute function rota_audit('token', '{{hash,last_used_at}}');
create trigger rota_audit_truncated after truncate on tokens
    for each statement execute function rota_audit_truncate('token');
"""


def upgrade() -> None:
    functions = (KEEP_IDENTITY, AUDIT, AUDIT_TRUNCATE)
    # asyncpg takes one statement at a time; a function's body is one.
    for statement in (*TABLES.split(";\n"), *functions, *TRIGGERS.split(";\n")):
        if statement.strip():
            op.execute(statement)
