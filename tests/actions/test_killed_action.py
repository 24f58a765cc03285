"""A run of an action whose worker is killed goes on, and does no step twice that was recorded.

For point after point a process runs the action, and is killed there. Then the run goes on here.
"""

import asyncio
import re
import signal
import sys
from asyncio.subprocess import Process

import pytest
from prefect import get_client
from prefect.flow_engine import run_flow_async
from prefect.states import Scheduled

from blocks.records import Records
from flows.run_action import run_action
from tests.actions.conftest import replied, step
from tests.prefect.conftest import Deployed, Proxy

pytestmark = pytest.mark.acceptance

RUN = """
import asyncio, sys
from prefect import get_client
from prefect.flow_engine import run_flow_async
from flows.run_action import run_action

async def main():
    async with get_client() as client:
        run = await client.read_flow_run(sys.argv[1])
    await run_flow_async(run_action, flow_run=run, parameters=run.parameters)

asyncio.run(main())
"""


class Stage:
    """Rota behind a proxy, a server that steps call, and a process to kill at either."""

    def __init__(self, proxy, target):
        self.proxy, self.target = proxy, target
        self.process: Process | None = None
        proxy.fault = lambda call: None

    def kill(self):
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)

    def at_the_call(self, path):
        """Kills it when a step's request has come, before it is answered."""

        def answer(seen):
            self.kill()
            return replied({"path": path})

        self.target.answers[path] = answer

    def at_the_record(self, pattern, number, how):
        """Kills it at a call to Rota, which then is done, or does not arrive."""
        left = number

        def fault(call):
            nonlocal left
            if re.search(pattern, str(call)):
                left -= 1
                if left == 0 and self.process is not None:
                    self.proxy.victim = self.process.pid
                    if how == "kill":
                        return "kill"
                    self.kill()
                    return "cut"
            return None

        self.proxy.fault = fault

    async def die(self, run_id):
        self.process = await asyncio.create_subprocess_exec(sys.executable, "-c", RUN, str(run_id))
        async with asyncio.timeout(60):
            status = await self.process.wait()
        self.process = None
        self.proxy.fault = lambda call: None
        self.target.answers.clear()
        assert status == -signal.SIGKILL, "it was over before it came to the point"


@pytest.fixture
async def stage(rota, target):
    proxy = Proxy(rota.url)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    token = (await rota.records()).token
    await Records(base_url=address, token=token).asave("default", overwrite=True)
    yield Stage(proxy, target)
    server.close()
    await proxy.close()


STEPS = "/runs/[^/]*/steps/"
POINTS = {
    "as it begins": ("record", "PUT .*/runs/[^/]*$", 1, "kill"),
    "in the first step": ("call", "/first"),
    "as the first step is recorded": ("record", f"{STEPS}first$", 2, "cut"),
    "once the first step is recorded": ("record", f"{STEPS}first$", 2, "kill"),
    "in the second step": ("call", "/second"),
    "once the second step is recorded": ("record", f"{STEPS}second$", 2, "kill"),
    "as the last step is recorded": ("record", f"{STEPS}third$", 2, "cut"),
    "once the last step is recorded": ("record", f"{STEPS}third$", 2, "kill"),
}


@pytest.mark.parametrize("point", POINTS)
async def test_a_killed_run_goes_on_after_the_last_step_that_was_recorded(
    actions, rota, target, stage, point
):
    body = {"$template": "{{ steps.second.output.body.path }}"}
    await actions.made(
        "long",
        step("first", "http", "second", url=f"{target.url}/first", method="POST"),
        step("second", "http", "third", url=f"{target.url}/second", method="POST"),
        step("third", "http", url=f"{target.url}/third", method="POST", body=body),
    )
    run = await Deployed(run_action, {"action": "long"}).scheduled_run()
    kind, *how = POINTS[point]
    (stage.at_the_call if kind == "call" else stage.at_the_record)(*how)

    await stage.die(run.id)
    recorded = {
        row["step"]
        for row in await rota.rows("select step from action_steps where status = 'completed'")
    }
    before = {name: target.times(f"/{name}") for name in ("first", "second", "third")}
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Scheduled(), force=True)
        again = await client.read_flow_run(run.id)
    await run_flow_async(run_action, flow_run=again, parameters=again.parameters)

    after = {name: target.times(f"/{name}") for name in before}
    for name in before:
        assert after[name] == before[name] + (name not in recorded), (point, name)
    assert [one["status"] for one in await actions.steps("long")] == ["completed"] * 3
    keys = {(one.path, one.headers["idempotency-key"]) for one in target.seen}
    assert len(keys) == 3  # what was done twice had the same key
    assert target.seen[-1].body in (b"/second", b"")
