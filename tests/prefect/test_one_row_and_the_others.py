"""What one row, tenant or person does must not stop what concerns the others."""

import pytest

from store import changes, roster
from store.errors import DatabaseError


@pytest.mark.parametrize("no_pool", ["?", "a\tb", "../rota", "no-such", "x" * 500])
async def test_a_work_pool_that_is_none_is_one_rows_problem(house, no_pool):
    await house.define("good")
    await house.define("bad", work_pool=no_pool)
    await house.sql.execute("update tenants set suspended = true")
    await house.settle()
    await house.reconciler.sweep()
    await house.sql.execute("update tenants set suspended = false")
    await house.settle()

    assert (await house.row("good"))["problem"] is None
    assert (await house.deployments()).keys() == {"good"}
    assert (await house.row("bad"))["problem"].startswith("work_pool: ")


async def test_a_call_that_always_fails_puts_off_only_its_own_row(house, proxy):
    for name in ("a", "b", "c"):
        await house.define(name)
    await house.settle()
    poisoned = f"/api/deployments/{(await house.deployment('a'))['id']}"
    proxy.fault = lambda call: 500 if (call.method, call.path) == ("PATCH", poisoned) else None
    for name in ("a", "b", "c"):
        await house.change(name, tags=["new"])
    report = await house.step()

    assert [outcome.reference for outcome in report.unfinished] == [f"{house.tenant}/a"]
    found = await house.deployments()
    assert {name for name, one in found.items() if "new" in one["tags"]} == {"b", "c"}
    assert await changes.waiting(house.engine) == 1

    proxy.mend()
    await house.settle()
    assert "new" in (await house.deployment("a"))["tags"]


async def test_a_flow_that_somebody_deleted_is_made_again(house):
    await house.define("before")
    await house.settle()
    flow = (await house.deployment("before"))["flow_id"]
    await house.call("DELETE", f"/flows/{flow}")

    await house.define("after")
    await house.settle()
    await house.reconciler.sweep()

    found = await house.deployments()
    assert found.keys() == {"before", "after"}
    assert flow not in {one["flow_id"] for one in found.values()}
    assert (await house.row("after"))["problem"] is None


async def test_a_tenant_that_is_let_go_among_many_changes_is_let_go(house):
    await house.define("one")
    await house.settle()
    await house.sql.execute("update tenants set suspended = true")
    await house.settle()
    await house.sql.execute("update tenants set suspended = false")

    work = await changes.begin(house.engine)
    await house.reconciler.sweep(noted=work)

    queue = await house.call("GET", f"/work_pools/rota/queues/{house.tenant}")
    assert queue["is_paused"] is False
    assert (await house.deployment("one"))["paused"] is False
    assert await changes.waiting(house.engine) == 0


async def test_a_crash_amid_many_changes_is_made_up_for_by_the_sweep(house):
    await house.define("minutely")
    await house.settle()
    due = await house.runs("minutely")
    # As a process leaves it that dies between a write and the making of runs.
    await house.change("minutely", tags=["new"])
    await changes.begin(house.engine)
    deployment = await house.deployment("minutely")
    tags = [house.tag, "new"]
    version = (await house.reconciler.compare()).plan.changes.update[0].desired.fingerprint
    body = {"tags": tags, "version": version}
    await house.call("PATCH", f"/deployments/{deployment['id']}", body)

    work = await changes.begin(house.engine)
    await house.reconciler.sweep(noted=work)

    assert set(await house.runs("minutely")) >= set(due)


async def test_a_database_without_its_own_id_says_so(house):
    await house.sql.execute("delete from marks")
    with pytest.raises(DatabaseError, match="instance"):
        await roster.read(house.engine)
