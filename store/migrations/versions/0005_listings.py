"""When the newest list was asked for that has been written, of servers and of projects."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("""
create table listings (
    tenant text not null references tenants (slug) on delete cascade,
    kind text not null
        constraint "kind: servers or projects" check (kind in ('servers', 'projects')),
    source text not null,
    listed_at timestamptz not null
        constraint "listed_at: from the year 1900 to 9000"
        check (listed_at between '1900-01-01 00:00Z' and '9000-01-01 00:00Z'),

    primary key (tenant, kind, source)
)
""")
