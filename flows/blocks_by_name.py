"""The blocks that a duty needs, loaded by the names that its definition gives."""

from typing import TypeVar

from prefect.blocks.core import Block
from prefect.exceptions import ObjectNotFound

B = TypeVar("B", bound=Block)


class MissingBlock(Exception):
    """A block that the duty needs has not been made."""


async def load(block_class: type[B], name: str) -> B:
    """Return the block of a class that is stored under a name.

    Args:
        block_class: The block's class.
        name: The name that it was saved with.

    Raises:
        MissingBlock: There is none; the message says how to make it.

    """
    try:
        return await block_class.aload(name)
    except ValueError as error:
        if not isinstance(error.__cause__, ObjectNotFound):
            raise
        raise MissingBlock(_how_to_make(block_class, name)) from error


def _how_to_make(block_class: type[Block], name: str) -> str:
    required = [field for field, info in block_class.model_fields.items() if info.is_required()]
    fields = ", ".join(f'{field}="..."' for field in required) or "..."
    return (
        f"There is no block `{block_class.get_block_type_slug()}/{name}`. Make it in Prefect's UI "
        f"under Blocks ({block_class.get_block_type_name()}), or in Python: "
        f'`{block_class.__name__}({fields}).save("{name}")`.'
    )
