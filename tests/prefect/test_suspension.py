"""A suspension while something else is being applied."""

import asyncio


async def test_a_queue_stops_while_other_writes_are_under_way(house, proxy):
    await house.define("first")
    await house.settle()
    queue = f"/work_pools/rota/queues/{house.tenant}"
    held, release = asyncio.Event(), asyncio.Event()

    async def hold(call) -> None:
        if call.path.startswith("/api/deployments/") and call.writes:
            held.set()
            await release.wait()

    proxy.gate = hold
    await house.change("first", cron="5 * * * *")
    applying = asyncio.create_task(house.settle())
    await held.wait()
    tenant = "update tenants set suspended = $2 where slug = $1"

    await house.sql.execute(tenant, house.tenant, True)
    await house.reconciler.heed()
    assert (await house.call("GET", queue))["is_paused"] is True
    writes = len(proxy.writes)
    await house.reconciler.heed()
    assert len(proxy.writes) == writes, "it was done already"

    await house.sql.execute(tenant, house.tenant, False)
    await house.reconciler.heed()
    assert (await house.call("GET", queue))["is_paused"] is False

    release.set()
    await applying
    await house.settle()
    assert (await house.call("GET", queue))["is_paused"] is False
    assert (await house.deployment("first"))["paused"] is False


async def test_a_tenant_that_is_resumed_during_a_sweep_goes_on(house, proxy):
    await house.define("first")
    await house.settle()
    queue = f"/work_pools/rota/queues/{house.tenant}"
    tenant = "update tenants set suspended = $2 where slug = $1"
    await house.sql.execute(tenant, house.tenant, True)
    held, release = asyncio.Event(), asyncio.Event()

    async def hold(call) -> None:
        if call.path.endswith("/deployments/filter"):
            held.set()
            await release.wait()

    proxy.gate = hold
    sweeping = asyncio.create_task(house.reconciler.sweep())
    await held.wait()
    await house.sql.execute(tenant, house.tenant, False)
    await house.reconciler.heed()
    release.set()
    await sweeping
    assert (await house.call("GET", queue))["is_paused"] is False
