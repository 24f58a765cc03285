"""The blocks that a duty needs, loaded by the names that its definition gives."""

import re
from typing import TypeVar

from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound

B = TypeVar("B", bound=Block)


BETWEEN = "--"
"""Stands between a tenant's slug and the rest of the name of a block of its own."""


_NAME = re.compile(r"(?:[a-z0-9-]+/)?[a-z0-9-]+")
"""What Prefect calls blocks. Its client puts a name into an address as it stands, where any other
character may lead to another block than the one whose owner was looked at."""


class MissingBlock(Exception):
    """A block that the duty needs has not been made."""


class ForeignBlock(Exception):
    """A block is another tenant's."""


async def load(block_class: type[B], name: str, tenant: str | None) -> B:
    """Return the block of a class that is stored under a name.

    Args:
        block_class: The block's class.
        name: The name that it was saved with.
        tenant: Who asks for it; None for nobody in particular.

    Raises:
        MissingBlock: There is none; the message says how to make it.
        ForeignBlock: It is another tenant's.

    """
    check_owner(name, tenant)
    try:
        return await block_class.aload(name)
    except ValueError as error:
        if not isinstance(error.__cause__, ObjectNotFound):
            raise
        raise MissingBlock(_how_to_make(block_class, name)) from error


def check_owner(name: str, tenant: str | None) -> None:
    """See that a block is the tenant's own, or for all.

    Prefect keeps one set of blocks for all tenants. A tenant's slug has no two dashes in a row.

    Args:
        name: The block's name, perhaps with its type in front.
        tenant: Who asks for it; None for nobody in particular.

    Raises:
        ForeignBlock: It is another tenant's.
        MissingBlock: No block can have such a name.

    """
    if not _NAME.fullmatch(name):
        raise MissingBlock(
            f"There is no block {name!r:.200}: names have lower-case letters, digits and dashes."
        )
    owner, between, _ = name.rpartition("/")[2].partition(BETWEEN)
    if between and owner != tenant:
        own = f"one of {tenant}'s own, {tenant}{BETWEEN}..., or " if tenant else ""
        raise ForeignBlock(
            f"The block {name!r} is another tenant's; name {own}one for all, without two dashes in "
            "its name."
        )


def _how_to_make(block_class: type[Block], name: str) -> str:
    required = [field for field, info in block_class.model_fields.items() if info.is_required()]
    fields = ", ".join(f'{field}="..."' for field in required) or "..."
    return (
        f"There is no block `{block_class.get_block_type_slug()}/{name}`. Make it in Prefect's UI "
        f"under Blocks ({block_class.get_block_type_name()}), or in Python: "
        f'`{block_class.__name__}({fields}).save("{name}")`.'
    )
