"""Writing a list to the records: in calls of which each fits, and never over a later one."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx

from blocks.records import RecordsRefused, TenantRecords

BATCH_BYTES = 5 << 20
"""Of items in one call. Of 8 MiB that the API takes, the rest is for what stands beside them."""

NAMED = 20
"""So many of a kind are named in a run's log, and the others counted."""


class MassChange(Exception):
    """Most of what is there would be marked as missing, and nobody has allowed that."""


class LaterList(Exception):
    """A list that was asked for later has been written meanwhile, so this one is left."""


def batches(
    items: Sequence[Mapping[str, Any]], most: int, most_bytes: int = BATCH_BYTES
) -> Iterator[Sequence[Mapping[str, Any]]]:
    """Yield items in batches that fit into one call each, at least one batch.

    Args:
        items: What JSON can hold.
        most: Items in one call.
        most_bytes: Bytes of them, as JSON.

    """
    first, size = 0, 0
    for number, item in enumerate(items):
        added = len(json.dumps(item)) + len(", ")
        if number > first and (number - first == most or size + added > most_bytes):
            yield items[first:number]
            first, size = number, 0
        size += added
    yield items[first:]


async def write(
    mine: TenantRecords, kind: str, source: str, body: Mapping[str, Any], remedy: str
) -> dict[str, list[str]]:
    """Write a list, or a batch of it; return what became of each item.

    Args:
        mine: The records of the tenant.
        kind: `servers` or `projects`.
        source: Whose list it is.
        body: What to send.
        remedy: What to do if it is held back.

    Raises:
        MassChange: Too much would become missing.
        LaterList: A later list of the source has been written.
        RecordsError: It could not be written.

    """
    try:
        written: dict[str, list[str]] = await mine.put(kind, body=body)
    except RecordsRefused as refused:
        said = dict(refused.errors) if refused.status == httpx.codes.CONFLICT else {}
        if why := said.get("listed_at"):
            raise LaterList(
                f"A later list of {source} was written meanwhile, and this one is left: {why}."
            ) from refused
        if why := said.get("allow_mass_change"):
            raise MassChange(f"The list of {source} was held back: {why}. {remedy}") from refused
        raise
    return written


def first_named(problems: Sequence[str]) -> Iterator[str]:
    """Yield the first few of the lines for a log, and how many more there are."""
    yield from problems[:NAMED]
    if len(problems) > NAMED:
        yield f"... and {len(problems) - NAMED:,} more such lines"
