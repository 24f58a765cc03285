"""The duty itself, as Prefect runs it."""

import pytest
from prefect import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ParameterTypeError
from prefect.logging.handlers import APILogHandler

from blocks.embedders import EmbedderRefused
from flows.blocks_by_name import MissingBlock
from flows.rag_summarizer import NothingIndexed, rag_summarizer
from flows.tenancy import NoTenant
from tests.documents.embeddings import KEY
from tests.github.fake import TOKEN, Answer

README = "# Shop\n\nShop sells things to people.\n\n## Install\n\nUse the penguin installer.\n"


@pytest.fixture
async def blocks(prefect_server, organization, rota, embedder):
    """Saves the blocks that the duty takes, and returns its parameters."""
    await organization.asave("documents", overwrite=True)
    await rota.asave("documents", overwrite=True)
    await embedder.asave("documents", overwrite=True)
    return {"service": "documents", "records": "documents"}


async def latest_run() -> FlowRun:
    async with get_client() as client:
        runs = await client.read_flow_runs()
    return max(runs, key=lambda run: run.created)


async def logs(run: FlowRun) -> str:
    """Returns what Prefect keeps of a run's log."""
    await APILogHandler.aflush()
    async with get_client() as client:
        found = await client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])))
    return "\n".join(one.message for one in found)


async def test_the_run_says_what_it_did(blocks, site, house):
    await site.push("shop", {"README.md": README, "docs/a\nb.md": "x"})

    counts = await rag_summarizer(**blocks, tenant=house, embedder="openai-embedder/documents")

    assert counts["documents_created"] == 1
    run = await latest_run()
    assert run.state is not None
    assert run.state.is_completed()
    assert run.state.message == "1 projects; documents: 1 new, 1 left out."
    assert (await site.search("penguin"))[0]["by"] == ["word", "meaning"]

    again = await rag_summarizer(**blocks, tenant=house, embedder="openai-embedder/documents")
    assert again["projects_unchanged"] == 1


async def test_documents_are_found_by_what_they_mean(blocks, site, house):
    await site.push("shop", {"README.md": README})
    await rag_summarizer(**blocks, tenant=house, embedder="openai-embedder/documents")

    found = await site.search("somewhere else")
    assert {one["heading"] for one in found} == {"Shop", "Shop > Install"}
    assert all(one["by"] == ["meaning"] for one in found)


async def test_projects_that_are_not_active_or_of_another_source_are_left_alone(
    blocks, site, house, sql
):
    for name in ("shop", "gone", "elsewhere", "bare"):
        await site.push(name, {"README.md": README})
    await sql.execute("update projects set status = 'missing' where name = 'gone'")
    await sql.execute("update projects set source = 'github:other' where name = 'elsewhere'")
    await sql.execute("update projects set default_branch = null where name = 'bare'")

    counts = await rag_summarizer(**blocks, tenant=house)

    assert (counts["projects"], counts["projects_unusable"]) == (1, 1)
    [found] = await site.search("penguin")
    assert found["project"] == (await site.projects())["shop"]["id"]


async def test_a_run_of_which_no_project_worked_fails(blocks, site, house):
    await site.push("shop", {"README.md": README})
    site.github.fail("trees", Answer(403, {"message": f"Resource not accessible by {TOKEN}"}))

    with pytest.raises(NothingIndexed, match="of none of the 1 projects"):
        await rag_summarizer(**blocks, tenant=house)
    run = await latest_run()
    assert run.state is not None
    assert run.state.is_failed()


async def test_without_projects_there_is_nothing_to_do(blocks, house):
    await rag_summarizer(**blocks, tenant=house)

    run = await latest_run()
    assert run.state is not None
    assert run.state.message == "0 projects; documents: nothing new."


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"service": "elsewhere"}, "`github-organization/elsewhere`"),
        ({"records": "elsewhere"}, "`records/elsewhere`"),
        ({"embedder": "openai-embedder/elsewhere"}, "`openai-embedder/elsewhere`"),
        ({"embedder": "local-embedder/elsewhere"}, "`local-embedder/elsewhere`"),
    ],
)
async def test_a_missing_block_is_named(blocks, house, parameters, named):
    with pytest.raises(MissingBlock, match=named):
        await rag_summarizer(**{**blocks, **parameters}, tenant=house)


async def test_a_run_that_no_definition_made_needs_a_tenant(blocks):
    with pytest.raises(NoTenant, match="parameter `tenant`"):
        await rag_summarizer(**blocks)


@pytest.mark.parametrize(
    "parameters",
    [{"service": ""}, {"embedder": "secret/x"}, {"at_once": 0}, {"deadline_seconds": 0}],
)
async def test_parameters_of_no_use_are_refused(prefect_server, parameters):
    with pytest.raises(ParameterTypeError):
        await rag_summarizer(**parameters)


async def test_no_secret_is_in_the_run(blocks, site, house, server, caplog):
    for name in ("a", "b"):
        await site.push(name, {"README.md": README})
    said = f"{TOKEN} may not"
    site.github.fail("acme/a/git/trees", Answer(403, {"message": said}))
    server.faults = [(400, {})]
    await rag_summarizer(**blocks, tenant=house, embedder="openai-embedder/documents")

    run = await latest_run()
    logged = await logs(run)
    assert "********** may not" in logged
    assert "Incorrect API key provided: **********" in logged
    for text in (logged, caplog.text, run.model_dump_json()):
        assert TOKEN not in text
        assert KEY not in text


async def test_no_secret_is_in_the_error_that_ends_a_run(blocks, site, house, server, caplog):
    await site.push("shop", {"README.md": README})
    server.faults = [(401, {})]

    with pytest.raises(EmbedderRefused, match=r"Incorrect API key provided: \*{10}"):
        await rag_summarizer(**blocks, tenant=house, embedder="openai-embedder/documents")

    run = await latest_run()
    for text in (await logs(run), caplog.text, run.model_dump_json()):
        assert KEY not in text
