"""The duty that keeps the records of servers in step with their provider."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.states import Completed
from pydantic import Field

from blocks.records import Records, RecordsError, TenantRecords
from blocks.time4vps import Time4VPS
from blocks.vps import Listing, ProviderError, Server, VPSProvider, provider_of_type
from flows.blocks_by_name import load
from flows.lists import BATCH_BYTES, LaterList, MassChange, batches, first_named, write
from flows.notices import tell
from flows.occurrence import current_occurrence
from flows.tenancy import tenant_of

NonEmpty = Annotated[str, Field(min_length=1, max_length=200)]

AT_ONCE = 5000
"""Servers in one call."""

DEFAULT_TYPE = Time4VPS.get_block_type_slug()
OUTCOMES = ("created", "updated", "unchanged", "gone", "returned", "demoted")
WORDS = {
    "created": "new",
    "updated": "changed",
    "gone": "missing",
    "returned": "back",
    "demoted": "not managed any more",
    "unfit": "unusable",
    "unreadable": "unreadable",
    "without_details": "without details",
}
"""What the summary calls the counters that are worth telling."""


REMEDY = (
    "If the provider has indeed so few servers, run this once with the parameter "
    "`allow_mass_change` set to true."
)


@dataclass(frozen=True)
class _Sweep:
    """What is sent beside the servers.

    Attributes:
        provider: Whose list it is.
        cycle: Tells two sweeps apart; one that is repeated has the same.
        allow_mass_change: Whether most servers may become missing at once.
        listed_at: When the provider was asked; UTC.

    """

    provider: str
    cycle: str
    allow_mass_change: bool
    listed_at: datetime


@flow
async def server_sync(
    service: NonEmpty = "default",
    managed_ids: Annotated[Sequence[NonEmpty], Field(max_length=10_000)] = (),
    allow_mass_change: bool = False,
    notify: Annotated[Sequence[NonEmpty], Field(max_length=20)] = (),
    records: NonEmpty = "default",
    tenant: NonEmpty | None = None,
) -> dict[str, Any]:
    """Write which servers the provider has, and what it says of each.

    A server is known by the provider's id of it, or else by its address. A new one is waiting for
    its set-up if it is among `managed_ids`, and reserved if not. One that the provider has no more
    becomes missing, and one that is back becomes active, or reserved. When the provider cannot be
    read, nothing is marked: the run fails, and one incident is open until it can be read again.
    When another run has written a later list meanwhile, this one writes nothing.

    Run again for the same occurrence, it changes nothing more.

    Args:
        service: The name of the Time4VPS block to use. For a block of another provider, its type
            stands in front: `other-vps/default`.
        managed_ids: The provider's ids of those servers that are ours to set up and to watch. Of
            the others it is only known that they are there.
        allow_mass_change: Whether more than half of the servers may become missing, or be no longer
            managed, at once.
        notify: The full names of notification blocks to tell people through what is new, such as
            `slack-webhook/ops`.
        records: The name of the Records block to write through.
        tenant: Whose records to write, for a run that no definition made.

    """
    slug, cycle = tenant_of(tenant), current_occurrence().idempotency_key
    kind, _, name = service.rpartition("/")
    provider: VPSProvider = await load(provider_of_type(kind or DEFAULT_TYPE), name, slug)
    book = await load(Records, records, slug)
    async with book.of(slug) as mine:
        sweep = _Sweep(provider.provider, cycle, allow_mass_change, datetime.now(UTC))
        counts: Counter[str] = Counter()
        try:
            listing = await _listing(mine, provider)
            await _write(mine, sweep, listing, frozenset(managed_ids), counts)
            summary = _summary(counts)
        except LaterList as later:
            summary = str(later)
        except (ProviderError, MassChange):
            await tell(mine, notify)
            raise
        counts["told"] = await tell(mine, notify)
    get_run_logger().info(summary, extra={"action": "server_sync", "counts": dict(counts)})
    return Completed(data=dict(counts), message=summary)  # type: ignore[return-value]


async def _listing(mine: TenantRecords, provider: VPSProvider) -> Listing:
    """Read the servers, and open or close the incident about whether that can be done."""
    about = {"server": None, "kind": "provider_api_unavailable", "about": provider.provider}
    try:
        listing = await provider.servers()
    except ProviderError as error:
        incident = {
            **about,
            "severity": "critical",
            "title": f"The servers of {provider.provider} cannot be read",
            "details": {"status_code": error.status, "error": str(error)},
        }
        try:
            await mine.put("incidents", body=_incidents(opened=[incident]))
        except RecordsError as unwritten:
            get_run_logger().error("The incident could not be written: %s", unwritten)
        raise
    await mine.put("incidents", body=_incidents(closed=[about]))
    return listing


def _incidents(
    opened: Sequence[dict[str, Any]] = (), closed: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    return {"at": datetime.now(UTC).isoformat(), "open": [*opened], "close": [*closed]}


async def _write(
    mine: TenantRecords,
    sweep: _Sweep,
    listing: Listing,
    managed: frozenset[str],
    counts: Counter[str],
) -> None:
    _name_what_is_wrong(listing)
    items = [_item(server, managed) for server in listing.servers]
    items += await _known(mine, sweep.provider, listing.unfit)
    parts = list(batches(items, AT_ONCE))
    # Only one call can tell what is missing, and one that cannot name every server must not.
    complete = not listing.unreadable and len(parts) == 1
    if not complete:
        get_run_logger().warning(
            "What the provider has no more is not looked for: entries of its list are unreadable, "
            "or its %d servers need more than one call (of %d servers and %d MiB).",
            len(items),
            AT_ONCE,
            BATCH_BYTES >> 20,
        )
    counts.update(
        servers=len(items),
        unfit=len(listing.unfit),
        unreadable=len(listing.unreadable),
        without_details=len(listing.without_details),
        **dict.fromkeys(OUTCOMES, 0),
    )
    for part in parts:
        body = {
            "provider": sweep.provider,
            "servers": part,
            "complete": complete,
            "cycle": sweep.cycle,
            "allow_mass_change": sweep.allow_mass_change,
            "listed_at": sweep.listed_at.isoformat(),
        }
        written = await write(mine, "servers", sweep.provider, body, REMEDY)
        counts.update({outcome: len(written[outcome]) for outcome in OUTCOMES})
        for outcome in ("created", "gone", "returned", "demoted"):
            if written[outcome]:
                get_run_logger().info("Servers %s: %s", outcome, ", ".join(written[outcome]))


def _item(server: Server, managed: frozenset[str]) -> dict[str, Any]:
    told = {name: value for name, value in asdict(server).items() if value is not None}
    return {**told, "managed": server.provider_id in managed}


async def _known(
    mine: TenantRecords, provider: str, unfit: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return items for those servers that are there, in the records too, and cannot be read.

    They are not missing. One that is in no record is left until it can be read.
    """
    if not unfit:
        return []
    params = {"provider": provider}
    return [
        {"provider_id": row["provider_id"]}
        async for page in mine.pages("servers", params=params)
        for row in page
        if row["provider_id"] in unfit
    ]


def _name_what_is_wrong(listing: Listing) -> None:
    kinds = (
        [f"The provider's list has an unreadable {problem}" for problem in listing.unreadable],
        [
            f"Server {number} is left as it is; the list says of it: {why}"
            for number, why in listing.unfit.items()
        ],
        [
            f"Server {number} has no details: {why}"
            for number, why in listing.without_details.items()
        ],
    )
    for lines in kinds:
        for line in first_named(lines):
            get_run_logger().warning("%s", line)


def _summary(counts: Counter[str]) -> str:
    found = [f"{word}: {counts[name]}" for name, word in WORDS.items() if counts[name]]
    return "; ".join([f"Servers listed: {counts['servers']}", *found]) + "."
