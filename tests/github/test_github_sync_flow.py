from datetime import UTC, datetime, timedelta

import httpx
import pytest
from prefect import get_client
from prefect.flow_engine import run_flow_async
from prefect.states import AwaitingRetry

from blocks.github_service import GitHub, GitHubRefused
from blocks.records import Records
from flows.blocks_by_name import MissingBlock, load
from flows.github_sync import github_sync
from flows.tenancy import NoTenant
from tests.github.fake import TOKEN
from tests.prefect.conftest import Deployed


@pytest.fixture
async def filled_in(prefect_server, organization, rota):
    """Stores the two blocks that the flow loads."""
    # The API has a limit of its own to a block's name.
    await organization.asave("sync-test", overwrite=True)
    await rota.asave("sync-test", overwrite=True)
    yield "sync-test"
    await GitHub.adelete("sync-test")
    await Records.adelete("sync-test")


async def test_a_run_without_a_definition_is_told_the_tenant(filled_in, tenant, fake, projects):
    fake.add("shop")

    counts = await github_sync(service=filled_in, records=filled_in, tenant=tenant)

    assert counts == {
        **dict.fromkeys(("updated", "unchanged", "returned", "missing", "gone", "unfit"), 0),
        "repositories": 1,
        "created": 1,
        "read": 1,
        "requests": 3,
    }
    assert list(await projects()) == ["shop"]
    with pytest.raises(NoTenant, match="tenant: nobody says"):
        await github_sync(service=filled_in, records=filled_in)


async def test_a_run_of_a_definition_that_is_tried_again_counts_once(
    filled_in, tenant, fake, sync, projects, sql
):
    await sql.execute("insert into tenants (slug) values ('acme')")
    await sql.execute("update tokens set tenant = null")
    fake.add("shop", pushed_at=None)
    fake.add("tools", pushed_at=None)
    parameters = {"service": filled_in, "records": filled_in}
    first = await Deployed(github_sync, parameters).manual_run()
    await run_flow_async(github_sync, flow_run=first, parameters=parameters)
    fake.remove("tools")

    run = await Deployed(github_sync, parameters).scheduled_run()
    await run_flow_async(github_sync, flow_run=run, parameters=parameters)
    async with get_client() as client:
        await client.set_flow_run_state(run.id, AwaitingRetry(), force=True)
        again = await client.read_flow_run(run.id)
    await run_flow_async(github_sync, flow_run=again, parameters=parameters)

    found = await sql.fetchrow("select * from projects where name = 'tools'")
    assert (found["tenant"], found["status"], found["missing_cycles"]) == ("acme", "missing", 1)
    async with get_client() as client:
        ended = await client.read_flow_run(run.id)
    assert ended.state.message == "1 repository in 127.0.0.1:acme: 1 missing; 1 request."


async def test_a_run_whose_list_is_older_than_what_is_written_ends_well_and_leaves_it(
    filled_in, tenant, fake, rota, projects
):
    fake.add("shop", pushed_at=None)
    async with rota.of(tenant) as mine:
        later = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
        # Sent while this run reads its list, as another one would.
        body = {"source": "127.0.0.1:acme", "projects": [], "listed_at": later}

        async def send(request):
            await mine.put("projects", body=body)

        fake.before(send)
        parameters = {"service": filled_in, "records": filled_in, "tenant": tenant}
        ended = await github_sync(**parameters, return_state=True)

    assert await projects() == {}
    assert ended.is_completed()
    assert ended.message.startswith("A later list of 127.0.0.1:acme was written meanwhile")


async def test_a_refusal_fails_the_run_and_shows_no_secret(filled_in, tenant, fake, prefect_server):
    fake.tokens.clear()

    with pytest.raises(GitHubRefused, match="401") as caught:
        await github_sync(service=filled_in, records=filled_in, tenant=tenant)

    assert TOKEN not in str(caught.value)
    async with httpx.AsyncClient(base_url=prefect_server) as http:
        runs = (await http.post("/flow_runs/filter", json={"sort": "START_TIME_DESC"})).text
    assert TOKEN not in runs


async def test_a_block_that_is_missing_is_told_with_how_to_make_it(prefect_server):
    with pytest.raises(MissingBlock) as caught:
        await load(GitHub, "nowhere", "acme")

    assert str(caught.value) == (
        "There is no block `github-organization/nowhere`. Make it in Prefect's UI under Blocks "
        '(GitHub Organization), or in Python: `GitHub(organization="...").save("nowhere")`.'
    )
    with pytest.raises(MissingBlock, match=r'Records\(base_url="...", token="..."\)\.save\("x"\)'):
        await load(Records, "x", "acme")
