from datetime import UTC, datetime

import httpx
import pytest
from prefect import flow, get_client, task
from prefect.flow_engine import run_flow_async

from flows.occurrence import Occurrence, current_occurrence

seen: list[Occurrence] = []


@flow(retries=2, retry_delay_seconds=0)
async def notes_and_fails() -> None:
    seen.append(current_occurrence())
    raise RuntimeError("once more")


@flow
async def notes() -> Occurrence:
    return current_occurrence()


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


async def test_a_scheduled_run_keeps_its_occurrence_through_retries(deployed):
    run = await deployed(notes_and_fails).scheduled_run()

    with pytest.raises(RuntimeError):
        await run_flow_async(notes_and_fails, flow_run=run)

    occurrence = Occurrence(
        definition_id=deployed.definition_id,
        reference="acme/noon",
        at=deployed.occurrence,
        trigger="schedule",
        run_id=str(run.id),
    )
    assert seen == [occurrence] * 3
    assert occurrence.idempotency_key == f"{deployed.definition_id}:2024-11-20T11:00:00Z"
    assert type(seen[0].at) is datetime
    assert seen[0].at.tzinfo is UTC


async def test_a_run_that_is_retried_by_hand_keeps_its_occurrence(deployed, prefect_server):
    run = await deployed(notes_and_fails).scheduled_run()
    with pytest.raises(RuntimeError):
        await run_flow_async(notes_and_fails, flow_run=run)

    async with httpx.AsyncClient(base_url=prefect_server) as http:
        # What the UI's Retry does.
        answer = await http.post(
            f"/flow_runs/{run.id}/set_state",
            json={"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}},
        )
        answer.raise_for_status()
    async with get_client() as client:
        again = await client.read_flow_run(run.id)
    with pytest.raises(RuntimeError):
        await run_flow_async(notes_and_fails, flow_run=again)

    assert len(seen) > 3
    assert len(set(seen)) == 1


async def test_a_run_that_is_started_by_hand_is_a_manual_one(deployed):
    before = datetime.now(UTC)
    run = await deployed(notes).manual_run()

    occurrence = await run_flow_async(notes, flow_run=run)

    assert occurrence is not None
    assert (occurrence.definition_id, occurrence.trigger) == (deployed.definition_id, "manual")
    assert before <= occurrence.at <= datetime.now(UTC)


async def test_a_call_without_a_definition_stands_for_itself(prefect_server):
    with pytest.raises(RuntimeError):
        await notes_and_fails()

    assert len(seen) == 3
    assert len(set(seen)) == 1
    [occurrence, *_] = seen
    assert (occurrence.definition_id, occurrence.reference) == (None, None)
    assert occurrence.trigger == "manual"
    assert occurrence.idempotency_key == f"{occurrence.run_id}:{occurrence.time}"


async def test_a_task_knows_the_occurrence_of_its_flow(prefect_server):
    @task
    def notes_in_a_thread() -> Occurrence:
        return current_occurrence()

    @flow
    async def with_a_task() -> tuple[Occurrence, Occurrence]:
        return current_occurrence(), notes_in_a_thread.submit().result()

    of_the_flow, of_the_task = await with_a_task()
    assert of_the_flow == of_the_task
