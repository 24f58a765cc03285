"""The duty that has servers set up."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.states import Completed
from pydantic import Field

from blocks.provisioner import Arrived, ProvisionerQueue, Request, Streams
from blocks.records import Records, RecordsRefused, TenantRecords
from flows.blocks_by_name import load
from flows.notices import tell
from flows.occurrence import current_occurrence
from flows.tenancy import tenant_of

NonEmpty = Annotated[str, Field(min_length=1, max_length=200)]

AT_ONCE = 100
"""Servers in one claim; they are published well before the shortest cool-down is over."""

COUNTED = ("published", "unconfirmed", "results", "passed_over", "garbage", "told")


@flow
async def provisioner_trigger(
    service: NonEmpty = "default",
    stuck_seconds: Annotated[int, Field(ge=60, le=604_800)] = 1800,
    cooldown_seconds: Annotated[int, Field(ge=30, le=86_400)] = 120,
    notify: Annotated[Sequence[NonEmpty], Field(max_length=20)] = (),
    records: NonEmpty = "default",
    tenant: NonEmpty | None = None,
) -> dict[str, Any]:
    """Ask the provisioner to set up the servers that wait for it, and write what became of others.

    First the results that have come are written, and then each server that is `pending_setup`, or
    `provisioning` for too long, is put into the provisioner's queue. Its status stays until the
    result comes. A server has one request at a time: a request that is in the queue for sure is
    not followed by another until it counts as stuck, and one of which this is not sure goes into
    the queue again, as the same request.

    With a cron of every minute it also does what is to be done when the system starts.

    Args:
        service: The name of the Provisioner Queue block to use.
        stuck_seconds: After how long without a result a server is asked for again, in seconds.
        cooldown_seconds: After how long a request that may not have reached the queue is put
            there again, in seconds.
        notify: The full names of notification blocks to tell people through what is new, such as
            `slack-webhook/ops`.
        records: The name of the Records block to write through.
        tenant: Whose records to write, for a run that no definition made.

    """
    slug = tenant_of(tenant)
    queue = await load(ProvisionerQueue, service, slug)
    book = await load(Records, records, slug)
    # Redis is asked first: while it is away, nothing is claimed.
    async with queue.opened() as streams, book.of(slug) as mine:
        counts = await _take_results(mine, streams, f"rota-{slug}")
        limits = {"stuck_seconds": stuck_seconds, "cooldown_seconds": cooldown_seconds}
        counts += await _publish(mine, streams, limits)
        counts["told"] = await tell(mine, notify)
    summary, data = _summary(counts), {name: counts[name] for name in COUNTED}
    get_run_logger().info(summary, extra={"action": "provisioner_trigger", "counts": data})
    return Completed(data=data, message=summary)  # type: ignore[return-value]


# -- what comes back


async def _take_results(mine: TenantRecords, streams: Streams, group: str) -> Counter[str]:
    """Write the results of this tenant's requests; of others it knows nothing, and lets them be.

    All tenants share the stream, so each has a group of its own and sees every result.
    """
    counts: Counter[str] = Counter()
    async for batch in streams.results(group):
        for entry in batch:
            if entry.result is None:
                await _keep_aside(streams, group, entry, entry.problem)
                counts["garbage"] += 1
        counts += await _apply(mine, streams, group, [one for one in batch if one.result])
    return counts


async def _apply(
    mine: TenantRecords, streams: Streams, group: str, entries: Sequence[Arrived]
) -> Counter[str]:
    if not entries:
        return Counter()
    body = {"results": [_result(one) for one in entries]}
    # The key lets it be tried again: twice the same result changes nothing.
    key = f"{group}:{entries[0].id}"
    try:
        written = await mine.post(
            "servers", "provisioning", "results", body=body, idempotency_key=key
        )
    except RecordsRefused as refused:
        if refused.status != 422:
            raise
        return await _apply_each(mine, streams, group, entries, str(refused))
    strays = [one for one in entries if _is_unknown(one, written)]
    await streams.acknowledge(group, [one for one in entries if one not in strays])
    for handle in written["applied"]:
        get_run_logger().info("Server %s: its result is written.", handle)
    counts = Counter(results=len(written["applied"]), passed_over=len(written["superseded"]))
    for entry in strays:
        counts["garbage" if await _disown(streams, group, entry) else "passed_over"] += 1
    return counts


def _is_unknown(entry: Arrived, written: dict[str, Any]) -> bool:
    assert entry.result is not None
    result = entry.result
    known = result.server_handle in written["applied"]
    return str(result.request_id) in written["unknown"] and not known


async def _disown(streams: Streams, group: str, entry: Arrived) -> bool:
    """Pass over a result that another tenant may know; return whether it is kept aside."""
    assert entry.result is not None
    problem = f"There is no server {entry.result.server_handle!r} in the records."
    kept = await streams.disown(group, entry, problem)
    if kept:
        _warn(entry, problem)
    return kept


async def _apply_each(
    mine: TenantRecords, streams: Streams, group: str, entries: Sequence[Arrived], problem: str
) -> Counter[str]:
    """Write results of which one is refused, so that it does not hold up the others for ever."""
    if len(entries) == 1:
        await _keep_aside(streams, group, entries[0], problem)
        return Counter(garbage=1)
    counts: Counter[str] = Counter()
    for entry in entries:
        counts += await _apply(mine, streams, group, [entry])
    return counts


async def _keep_aside(streams: Streams, group: str, entry: Arrived, problem: str) -> None:
    _warn(entry, problem)
    await streams.keep_aside(group, entry, problem)


def _warn(entry: Arrived, problem: str) -> None:
    get_run_logger().warning("The result %s is kept aside: %s", entry.id, problem)


def _result(entry: Arrived) -> dict[str, Any]:
    assert entry.result is not None
    return {**entry.result.model_dump(mode="json"), "finished_at": entry.at.isoformat()}


# -- what goes out


async def _publish(mine: TenantRecords, streams: Streams, limits: dict[str, int]) -> Counter[str]:
    counts: Counter[str] = Counter()
    while True:
        claimed = await mine.post("servers", "provisioning", body={"limit": AT_ONCE, **limits})
        at = datetime.now(UTC)
        for one in claimed["requests"]:
            await streams.publish(_request(one, streams.callback, at))
            counts["published"] += 1
            counts["unconfirmed"] += not await _confirm(mine, one["handle"], one["request_id"])
        if len(claimed["requests"]) < AT_ONCE:
            return counts


def _request(claimed: dict[str, Any], callback: str, at: datetime) -> Request:
    return Request(
        correlation_id=current_occurrence().idempotency_key,
        timestamp=at,
        request_id=claimed["request_id"],
        callback_stream=callback,
        server_handle=claimed["handle"],
        is_recovery=claimed["is_recovery"],
    )


async def _confirm(mine: TenantRecords, handle: str, request_id: str) -> bool:
    """Say that a request is in the queue; return whether it is still the server's request."""
    try:
        await mine.post(
            "servers",
            handle,
            "provisioning",
            request_id,
            "published",
            # It lets this be tried again, for it does the same when it is done twice.
            idempotency_key=request_id,
        )
    except RecordsRefused as refused:
        get_run_logger().warning("Server %s has been changed meanwhile: %s", handle, refused)
        return False
    get_run_logger().info("Server %s is in the queue, request %s.", handle, request_id)
    return True


def _summary(counts: Counter[str]) -> str:
    said = f"Put into the queue: {counts['published']}; results written: {counts['results']}"
    if counts["passed_over"]:
        said += f"; results of other requests: {counts['passed_over']}"
    if counts["garbage"]:
        said += f"; kept aside: {counts['garbage']}"
    return f"{said}."
