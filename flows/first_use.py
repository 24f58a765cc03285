"""Host keys that were trusted when they were first seen, from one run to the next."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from prefect import get_run_logger
from pydantic import Field, TypeAdapter, ValidationError

from blocks.records import RecordsRefused, TenantRecords
from blocks.ssh_hosts import MOST_TRUSTED_BYTES, weight

NOT_FOUND = 404
PAGE = 200

_KEYS = TypeAdapter(dict[str, Annotated[str, Field(pattern=r"^[a-z0-9@.-]+ SHA256:\S+$")]])


@dataclass(frozen=True)
class Trusted:
    """What is trusted at the beginning of a run.

    Attributes:
        keys: The keys, by address and port.
        stale: Where no server of the records is any more; what was trusted there is forgotten.

    """

    keys: dict[str, str]
    stale: frozenset[str] = frozenset()


async def recall(records: TenantRecords, checkpoint: str, jump: str | None) -> Trusted:
    """Return the keys that runs before have trusted.

    Args:
        records: Those of the tenant.
        checkpoint: Where the keys are kept.
        jump: Address and port of the host that leads to the servers, if there is one.

    Raises:
        ValueError: The checkpoint holds something else.

    """
    kept = await _read(records, checkpoint)
    stale = frozenset(kept.keys() - await _places(records) - {jump}) if kept else frozenset()
    return Trusted({place: key for place, key in kept.items() if place not in stale}, stale)


async def remember(
    records: TenantRecords, checkpoint: str, before: Trusted, learned: Mapping[str, str]
) -> None:
    """Keep what a run has learned beside what others have learned meanwhile, which goes first.

    Raises:
        ValueError: The checkpoint holds something else by now.

    """
    if not learned and not before.stale:
        return
    now = await _read(records, checkpoint)
    kept = {place: key for place, key in now.items() if place not in before.stale}
    room = MOST_TRUSTED_BYTES - weight(kept)
    left_out = 0
    for place, key in learned.items():
        if place in kept:
            continue
        room -= weight({place: key})
        if room >= 0:
            kept[place] = key
        else:
            left_out += 1
    if left_out:
        say_left_out(left_out)
    if kept != now:
        await records.put("checkpoints", checkpoint, body={"value": kept})


def say_left_out(number: int) -> None:
    """Write into the run's log how many keys there is no room for."""
    get_run_logger().warning(
        "%d host keys could not be trusted on first use, for there is no room to remember more; "
        "list those servers in the known hosts of the block.",
        number,
        extra={"action": "host_keys_left_out"},
    )


async def _read(records: TenantRecords, checkpoint: str) -> dict[str, str]:
    try:
        kept = await records.get("checkpoints", checkpoint)
    except RecordsRefused as refused:
        if refused.status != NOT_FOUND:
            raise
        return {}
    try:
        return _KEYS.validate_python(kept["value"])
    except (ValidationError, TypeError, KeyError):
        # To go on without it would be to trust whoever answers now.
        raise ValueError(
            f"The checkpoint {checkpoint} does not hold host keys by address; put it right, or "
            "delete it to trust all servers anew."
        ) from None


async def _places(records: TenantRecords) -> set[str]:
    """Return wherever a server may be, also one that is not looked at for the time being."""
    found: set[str] = set()
    async for page in records.pages("servers", size=PAGE):
        for row in page:
            found |= {f"{address}:{row.get('ssh_port')}" for address in _addresses(row)}
    return found


def _addresses(row: Mapping[str, Any]) -> list[Any]:
    return [row.get("public_ip"), row.get("host"), *(row.get("addresses") or ())]
