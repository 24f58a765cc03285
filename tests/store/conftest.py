"""What the tests of the store share."""

from uuid import UUID

import asyncpg
import pytest


class Rows:
    """Rows as a person would write them, in plain SQL."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection

    async def tenant(self, slug: str = "acme") -> str:
        await self._connection.execute("insert into tenants (slug) values ($1)", slug)
        return slug

    async def definition(self, name: str = "nightly", tenant: str = "acme") -> UUID:
        found: UUID = await self._connection.fetchval(
            "insert into definitions (tenant, name, duty, cron) "
            "values ($1, $2, 'workflow_run', '0 3 * * *') returning id",
            tenant,
            name,
        )
        return found

    async def notes(self) -> list[tuple[str, str | None, str | None]]:
        """Takes the notes there are, the oldest first: operation, tenant, name."""
        notes = await self._connection.fetch(
            "with gone as (delete from changes returning *) select * from gone order by id"
        )
        return [(note["operation"], note["tenant"], note["name"]) for note in notes]


@pytest.fixture
async def rows(sql: asyncpg.Connection) -> Rows:
    return Rows(sql)


@pytest.fixture
async def nightly(rows: Rows) -> UUID:
    """Makes the definition `acme/nightly`, whose notes have been dealt with; returns its id."""
    await rows.tenant()
    definition = await rows.definition()
    await rows.notes()
    return definition
