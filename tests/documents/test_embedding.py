"""An embedder that is away while a run goes on."""

import pytest

from blocks.embedders import OpenAIEmbedder
from flows.embedding import MOST_FAILURES

README = "# Shop\n\nShop sells things to people.\n"
AWAY = (503, {})


@pytest.fixture
def hasty(server) -> OpenAIEmbedder:
    """Tries twice when it is patient."""
    return OpenAIEmbedder(base_url=server.address, deadline_seconds=2)


async def test_an_embedder_that_is_away_fails_the_project_that_needs_it_alone(
    site, index, hasty, server, caplog
):
    for name in ("a", "b"):
        await site.push(name, {"README.md": README})
    await index(hasty)
    for name in ("a", "c"):
        await site.push(name, {"README.md": README + "More.\n"})
    server.faults = [AWAY] * 2

    counts = await index(hasty)

    assert (counts["projects"], counts["projects_failed"]) == (3, 1)
    assert (counts["projects_unchanged"], counts["documents_created"]) == (1, 1)
    [record] = [one for one in caplog.records if getattr(one, "action", "") == "project_failed"]
    assert record.getMessage().startswith("acme/a: The embedder did not do POST")
    assert (await index(hasty))["documents_updated"] == 1


async def test_an_embedder_that_was_away_is_not_waited_for_again_in_the_same_run(
    site, index, hasty, server
):
    for name in "abcd":
        await site.push(name, {"README.md": README})
    server.requests.clear()
    # Two tries for the first, one for the second; the third is embedded, the fourth not.
    server.faults = [*[AWAY] * 3, None, AWAY]

    counts = await index(hasty)

    assert (counts["projects_failed"], counts["documents_created"]) == (3, 1)
    assert len(server.requests) == 5
    assert (await index(hasty))["documents_created"] == 3


async def test_an_embedder_that_stays_away_is_not_asked_for_ever(
    site, index, hasty, server, caplog
):
    for name in "abcdefghi":
        await site.push(name, {"README.md": README})
    server.faults = [AWAY] * 100

    counts = await index(hasty)

    assert counts["projects_failed"] == 9
    assert len(server.requests) == MOST_FAILURES + 1
    assert "acme/i: The embedder was away for 5 projects in a row" in caplog.text
