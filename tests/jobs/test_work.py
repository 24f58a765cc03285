"""Jobs from the row to their end, by real workers."""

import asyncio

import pytest

pytestmark = pytest.mark.acceptance


async def test_a_row_by_plain_sql_is_run_and_tells_how_it_ended(shop):
    await shop.worker()
    shop.watch()

    await shop.queue("first", "echo out; echo $GREETING; exit 0", environment={"GREETING": "hi"})
    row = await shop.until("first", "completed")

    assert (row["exit_code"], row["output"], row["error"]) == (0, "out\nhi\n", None)
    assert row["last_run"] == row["finished_at"] >= row["started_at"] >= row["queued_at"]
    run = await shop.run_of("first")
    assert run["name"] == "first"

    await shop.queue("second", "echo bad; exit 3")
    row = await shop.until("second", "failed")

    assert (row["exit_code"], row["output"]) == (3, "bad\n")
    await shop.yard.until([row["run_id"]], {"Failed"})
    run = await shop.run_of("second")
    assert run["state"]["message"] == "The job 'second' has failed: exit code 3: bad"
    async with asyncio.timeout(20):
        while "bad" not in await shop.log_of("second"):  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.2)
