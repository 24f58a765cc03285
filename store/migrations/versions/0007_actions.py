"""Actions: graphs of steps, the templates of steps, and what each run of one has done."""

from alembic import op

revision = "0007"
down_revision = "0006"

SLUG = r"'^[a-z0-9]+(-[a-z0-9]+)*$'"
STEP = r"'^[a-z][a-z0-9_]{0,62}$'"
LARGEST = 9223372036854775807


def _slug(column: str) -> str:
    return f"""{column} text not null
        constraint "{column}: lower-case letters, digits, single dashes; at most 63"
        check ({column} ~ {SLUG} and length({column}) <= 63)"""


def _json(column: str, most_kib: int) -> str:
    return f"""constraint "{column}: at most {most_kib} KiB as text"
        check (octet_length({column}::text) <= {most_kib * 1024})
        constraint "{column}: numbers of at most 64 bits"
        check (not jsonb_path_exists({column}, 'strict $.** ? (
            @ > {LARGEST} || @ < -{LARGEST + 1})'))
        constraint "{column}: nested at most 80 deep"
        check (not jsonb_path_exists({column}, 'strict $.**{{81}}'))"""


TABLES = f"""
create table actions (
    id uuid primary key default gen_random_uuid(),
    tenant text not null references tenants (slug) on delete cascade,
    {_slug("name")},
    title text
        constraint "title: at most 255 characters" check (length(title) <= 255),
    description text
        constraint "description: at most 16384 characters" check (length(description) <= 16384),
    steps jsonb not null
        constraint "steps: a list of 1 to 100"
        check (jsonb_typeof(steps) = 'array' and jsonb_array_length(steps) between 1 and 100)
        {_json("steps", 512)},
    revision bigint not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),

    constraint "name: unique among actions" unique (tenant, name)
);

create table step_templates (
    id uuid primary key default gen_random_uuid(),
    tenant text not null references tenants (slug) on delete cascade,
    {_slug("name")},
    description text
        constraint "description: at most 16384 characters" check (length(description) <= 16384),
    kind text not null
        constraint "kind: at most 63 characters" check (length(kind) <= 63),
    input jsonb not null default '{{}}'
        constraint "input: a JSON object" check (jsonb_typeof(input) = 'object')
        {_json("input", 512)},
    timeout_seconds double precision
        constraint "timeout_seconds: above 0, up to 86400"
        check (timeout_seconds > 0 and timeout_seconds <= 86400),
    retries integer
        constraint "retries: 0 to 100" check (retries between 0 and 100),
    retry_delay_seconds integer
        constraint "retry_delay_seconds: 0 to 86400"
        check (retry_delay_seconds between 0 and 86400),
    revision bigint not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),

    constraint "name: unique among step templates" unique (tenant, name)
);

create table action_runs (
    tenant text not null references tenants (slug) on delete cascade,
    id uuid not null,
    action text not null,
    revision bigint not null,
    started_at timestamptz not null default now(),
    primary key (tenant, id)
);
create index ix_action_runs_action on action_runs (tenant, action, started_at, id);

create table action_steps (
    tenant text not null,
    run_id uuid not null,
    step text not null
        constraint "step: lower-case letters, digits and underscores; at most 63"
        check (step ~ {STEP}),
    position integer not null,
    kind text not null,
    status text not null
        constraint "status: running, completed or failed"
        check (status in ('running', 'completed', 'failed')),
    input jsonb not null default 'null',
    output jsonb not null default 'null',
    error text,
    next text,
    started_at timestamptz not null default now(),
    finished_at timestamptz,
    primary key (tenant, run_id, step),
    foreign key (tenant, run_id) references action_runs (tenant, id) on delete cascade,
    constraint "finished_at: of those that are not running"
        check ((status = 'running') = (finished_at is null))
);

alter table settings
    drop constraint "key: max_concurrent_jobs",
    drop constraint "max_concurrent_jobs: a whole number from 0 to 1000",
    add constraint "key: max_concurrent_jobs or allowed_addresses"
        check (key in ('max_concurrent_jobs', 'allowed_addresses')),
    add constraint "max_concurrent_jobs: a whole number from 0 to 1000"
        check (case when key <> 'max_concurrent_jobs' then true
               when jsonb_typeof(value) = 'number'
               then value::numeric between 0 and 1000 and value::numeric % 1 = 0
               else false end),
    add constraint "allowed_addresses: a list of at most 200 texts"
        check (case when key <> 'allowed_addresses' then true
               when jsonb_typeof(value) = 'array'
               then jsonb_array_length(value) <= 200 and not jsonb_path_exists(value,
                   'strict $[*] ? (@.type() != "string"
                       || !(@ like_regex "^[0-9a-z.:/-]{{1,253}}$"))')
               else false end);
"""

KEEP = """
create function rota_keep_named() returns trigger language plpgsql
set search_path from current as $$
begin
    if (new.id, new.tenant, new.name) is distinct from (old.id, old.tenant, old.name) then
        raise exception 'name: %/% cannot become %/%', old.tenant, old.name, new.tenant, new.name
            using errcode = 'integrity_constraint_violation';
    end if;
    new.updated_at := clock_timestamp();
    new.revision := old.revision + 1;
    return new;
end $$;
"""


def _triggers(table: str, kind: str, hidden: str) -> list[str]:
    return [
        f"""
create trigger rota_keep_named before update on {table} for each row
    when (old.* is distinct from new.*) execute function rota_keep_named()""",
        f"""
create trigger rota_audit_written after insert or delete on {table}
    for each row execute function rota_audit('{kind}', '{{{hidden}}}')""",
        f"""
create trigger rota_audit_changed after update on {table} for each row
    when (old.* is distinct from new.*)
    execute function rota_audit('{kind}', '{{{hidden}}}')""",
        f"""
create trigger rota_audit_truncated after truncate on {table}
    for each statement execute function rota_audit_truncate('{kind}')""",
    ]


def upgrade() -> None:
    # asyncpg takes one statement at a time; a function's body is one.
    for statement in (
        *TABLES.split(";\n"),
        KEEP,
        *_triggers("actions", "action", "revision,updated_at"),
        *_triggers("step_templates", "step_template", "revision,updated_at"),
    ):
        if statement.strip():
            op.execute(statement)
