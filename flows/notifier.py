"""The duty that tells people what the records have for them."""

from collections.abc import Sequence
from typing import Annotated

from prefect import flow
from prefect.states import Completed
from pydantic import Field

from blocks.records import Records
from flows.blocks_by_name import load
from flows.notices import tell
from flows.tenancy import tenant_of

NonEmpty = Annotated[str, Field(min_length=1, max_length=200)]


@flow
async def notifier(
    notify: Annotated[Sequence[NonEmpty], Field(max_length=20)] = (),
    records: NonEmpty = "default",
    tenant: NonEmpty | None = None,
) -> int:
    """Send what people are to be told, each thing once.

    What a definition's own `notify` asks for goes through the blocks that it names. All else goes
    through those that are named here; without any, it stays for a duty that has some.

    Args:
        notify: The full names of notification blocks, such as `slack-webhook/ops`.
        records: The name of the Records block to read through.
        tenant: Whose people to tell, for a run that no definition made.

    """
    slug = tenant_of(tenant)
    async with (await load(Records, records, slug)).of(slug) as mine:
        told = await tell(mine, notify, addressed=True)
    return Completed(data=told, message=f"{told} told.")  # type: ignore[return-value]
