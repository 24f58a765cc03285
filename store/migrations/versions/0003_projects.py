"""What duties learn: projects, their documents and chunks, and checkpoints."""

from alembic import op

revision = "0003"
down_revision = "0002"


def _dates(*columns: str) -> str:
    # PostgreSQL's go far beyond what Python can read.
    return ",\n".join(
        f"""    constraint "{column}: from the year 1900 to 9000"
        check ({column} between '1900-01-01 00:00Z' and '9000-01-01 00:00Z')"""
        for column in columns
    )


def _json(column: str) -> str:
    # What Python's readers of JSON give up on.
    return f"""    constraint "{column}: numbers of at most 64 bits"
        check (not jsonb_path_exists({column}, 'strict $.** ? (
            @ > 9223372036854775807 || @ < -9223372036854775808)')),
    constraint "{column}: nested at most 64 deep"
        check (not jsonb_path_exists({column}, 'strict $.**{{65}}'))"""


TABLES = f"""
create table projects (
    id uuid primary key default gen_random_uuid(),
    tenant text not null references tenants (slug) on delete cascade,
    source text not null default 'manual'
        constraint "source: letters, digits and . _ : / -; at most 200"
        check (source ~ '^[A-Za-z0-9][A-Za-z0-9._:/-]{{0,199}}$'),
    repository_id bigint
        constraint "repository_id: at least 1" check (repository_id >= 1),
    name text not null
        constraint "name: 1 to 255 characters" check (length(name) between 1 and 255),
    full_name text
        constraint "full_name: at most 511 characters" check (length(full_name) <= 511),
    description text
        constraint "description: at most 16384 characters" check (length(description) <= 16384),
    topics text[] not null default '{{}}'
        constraint "topics: one list of at most 100, none of them null"
        check (case when coalesce(array_ndims(topics), 1) > 1 then false
               else cardinality(topics) <= 100 and array_position(topics, null) is null end),
    default_branch text
        constraint "default_branch: at most 255 characters" check (length(default_branch) <= 255),
    visibility text
        constraint "visibility: public, private or internal"
        check (visibility in ('public', 'private', 'internal')),
    archived boolean not null default false,
    pushed_at timestamptz,
    url text
        constraint "url: at most 2048 characters" check (length(url) <= 2048),

    status text not null default 'active'
        constraint "status: discovered, active, missing or archived"
        check (status in ('discovered', 'active', 'missing', 'archived')),
    missing_cycles integer not null default 0
        constraint "missing_cycles: at least 0" check (missing_cycles >= 0),
    missed_in text[] not null default '{{}}'
        constraint "missed_in: at most 1000" check (cardinality(missed_in) <= 1000),
    archived_by_source boolean not null default false,
    content_pushed_at timestamptz,
    spec jsonb
        constraint "spec: a JSON object" check (jsonb_typeof(spec) = 'object')
        constraint "spec: at most 512 KiB as text" check (octet_length(spec::text) <= 524288),
    spec_problem text
        constraint "spec_problem: at most 16384 characters" check (length(spec_problem) <= 16384),
    summary text
        constraint "summary: at most 65536 characters" check (length(summary) <= 65536),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    last_seen_at timestamptz not null default now(),

    constraint "id: unique in its tenant" unique (tenant, id),
{_dates("pushed_at", "content_pushed_at", "created_at", "updated_at", "last_seen_at")},
{_json("spec")}
);
create unique index "repository_id: unique at its provider, in a tenant"
    on projects (tenant, split_part(source, ':', 1), repository_id)
    where repository_id is not null;
create unique index "name: unique in its tenant, without a repository_id"
    on projects (tenant, name) where repository_id is null;
create index ix_projects_name on projects (tenant, name, id);
create index ix_projects_source on projects (tenant, source);

create table checkpoints (
    tenant text not null references tenants (slug) on delete cascade,
    key text not null
        constraint "key: lower-case letters, digits and . _ : / -; at most 200"
        check (key ~ '^[a-z0-9][a-z0-9._:/-]{{0,199}}$'),
    value jsonb not null
        constraint "value: at most 512 KiB as text" check (octet_length(value::text) <= 524288),
    updated_at timestamptz not null default now(),

    primary key (tenant, key),
{_dates("updated_at")},
{_json("value")}
);

create table documents (
    id uuid primary key default gen_random_uuid(),
    tenant text not null,
    project_id uuid not null,
    path text not null
        constraint "path: 1 to 1024 characters" check (length(path) between 1 and 1024),
    title text
        constraint "title: at most 1024 characters" check (length(title) <= 1024),
    uri text
        constraint "uri: at most 2048 characters" check (length(uri) <= 2048),
    content_hash text not null
        constraint "content_hash: sha256: and 64 hexadecimal digits"
        check (content_hash ~ '^sha256:[0-9a-f]{{64}}$'),
    embedder text
        constraint "embedder: 1 to 255 characters" check (length(embedder) between 1 and 255),
    bytes bigint not null default 0
        constraint "bytes: at least 0" check (bytes >= 0),
    chunks integer not null default 0
        constraint "chunks: at least 0" check (chunks >= 0),
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),

    foreign key (tenant, project_id) references projects (tenant, id) on delete cascade,
    constraint "path: unique in its project" unique (project_id, path),
{_dates("created_at", "updated_at")}
);
create index ix_documents_tenant on documents (tenant, path, id);

create table chunks (
    id bigserial primary key,
    document_id uuid not null references documents (id) on delete cascade,
    position integer not null
        constraint "position: at least 0" check (position >= 0),
    heading text not null default ''
        constraint "heading: at most 1024 characters" check (length(heading) <= 1024),
    start_line integer not null
        constraint "start_line: at least 1" check (start_line >= 1),
    end_line integer not null,
    text text not null
        constraint "text: at most 32768 characters" check (length(text) <= 32768),
    words tsvector not null generated always as (
        setweight(to_tsvector('simple'::regconfig, heading), 'A')
        || to_tsvector('simple'::regconfig, text)) stored,

    constraint "position: unique in its document" unique (document_id, position),
    constraint "end_line: not before start_line" check (end_line >= start_line)
);
create index ix_chunks_words on chunks using gin (words);
"""


def upgrade() -> None:
    # asyncpg takes one statement at a time.
    for statement in TABLES.split(";\n"):
        if statement.strip():
            op.execute(statement)
