import json
import logging
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import ValidationError

from blocks.embedders import (
    EmbedderAnswerUnusable,
    EmbedderRefused,
    EmbedderUnavailable,
    LocalEmbedder,
    OpenAIEmbedder,
)
from blocks.outgoing import Backoff
from tests.documents.embeddings import KEY, EmbeddingsServer


@pytest.fixture
def embed(server: EmbeddingsServer, backoff: Backoff) -> Callable[..., Any]:
    async def call(*texts: str, **fields: Any) -> list[list[float]]:
        fields = {"base_url": server.address, "api_key": KEY, "read_seconds": 0.3, **fields}
        return await OpenAIEmbedder(**fields).embed(texts, backoff=backoff)

    return call


class TestOpenAIStandards(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return OpenAIEmbedder


class TestLocalStandards(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return LocalEmbedder


async def test_texts_are_embedded_in_their_order(server, embed):
    assert await embed("a", "bb", "ccc") == [[1.0, 0.5, 0.5], [2.0, 0.5, 0.5], [3.0, 0.5, 0.5]]

    [request] = server.requests
    assert request.path == "/v1/embeddings"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert request.body == {
        "model": "text-embedding-3-small",
        "input": ["a", "bb", "ccc"],
        "encoding_format": "float",
    }


async def test_an_answer_in_another_order_is_put_right(server, embed):
    server.faults = [lambda answer: {**answer, "data": answer["data"][::-1]}]

    assert [vector[0] for vector in await embed("a", "bb", "ccc")] == [1, 2, 3]


async def test_many_texts_are_sent_in_batches(server, embed):
    vectors = await embed(*("x" * length for length in range(1, 8)), batch_size=3)

    assert [vector[0] for vector in vectors] == [1, 2, 3, 4, 5, 6, 7]
    assert [len(request.body["input"]) for request in server.requests] == [3, 3, 1]


async def test_no_texts_are_no_request(server, embed):
    assert await embed() == []
    assert server.requests == []


async def test_a_service_without_keys_gets_none(server, embed):
    await embed("a", api_key="")

    assert "authorization" not in server.requests[0].headers


async def test_chosen_dimensions_are_asked_for(server, embed):
    [vector] = await embed("a", dimensions=5, model="m")

    assert len(vector) == 5
    assert server.requests[0].body["dimensions"] == 5


def test_vectors_of_another_model_or_length_lie_in_another_space():
    spaces = [
        OpenAIEmbedder().space,
        OpenAIEmbedder(dimensions=512).space,
        OpenAIEmbedder(model="other").space,
        LocalEmbedder().space,
        LocalEmbedder(directory="/models/some-model").space,
    ]

    assert spaces == [
        "text-embedding-3-small",
        "text-embedding-3-small:512",
        "other",
        "all-MiniLM-L6-v2",
        "some-model",
    ]


async def test_passing_troubles_are_tried_again(server, embed, clock):
    server.faults = [(500, {}), "cut", (503, {}), "silent", (429, {"Retry-After": "17"})]

    assert len(await embed("a")) == 1
    assert clock.sleeps == [1, 5, 10, 20, 17]
    assert len({json.dumps(request.body) for request in server.requests}) == 1


async def test_without_patience_there_is_one_try(server, clock):
    server.faults = [(429, {"Retry-After": "1"})]

    with pytest.raises(EmbedderUnavailable, match="1 try in"):
        await OpenAIEmbedder(base_url=server.address).embed(["a"], patient=False)
    assert (len(server.requests), clock.sleeps) == (1, [])


async def test_a_batch_that_is_done_is_not_sent_again(server, embed):
    server.faults = [None, (500, {})]

    await embed("a", "bb", batch_size=1)
    assert [request.body["input"] for request in server.requests] == [["a"], ["bb"], ["bb"]]


async def test_a_service_that_stays_away_is_given_up(server, embed, clock):
    server.faults = [(503, {})] * 50

    with pytest.raises(EmbedderUnavailable, match=r"POST .*/v1/embeddings, \d+ tries in 29") as it:
        await embed("a")
    assert sum(clock.sleeps) < 300
    assert KEY not in str(it.value)


@pytest.mark.parametrize("status", [400, 401, 404, 307])
async def test_a_refusal_is_final_and_keeps_the_key(server, embed, clock, caplog, status):
    caplog.set_level(logging.DEBUG)
    server.faults = [(status, {"Location": "/elsewhere"})]

    with pytest.raises(EmbedderRefused, match=f"with {status} Told So") as caught:
        await embed("a")
    assert caught.value.status == status
    assert KEY not in str(caught.value)
    assert KEY not in caplog.text
    assert (clock.sleeps, len(server.requests)) == ([], 1)


def _with(vector: Any) -> Callable[[Any], Any]:
    def change(answer: Any) -> Any:
        answer["data"][1]["embedding"] = vector
        return answer

    return change


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_with([1.0, 2.0]), r"2 vectors of the lengths \[2, 3\] for 2 texts"),
        (_with([]), "data.1.embedding"),
        (_with([1.0, math.nan, 1.0]), "data.1.embedding.1: Input should be a finite number"),
        (_with([1.0, math.inf, 1.0]), "data.1.embedding.1: Input should be a finite number"),
        (_with([0.0, 0.0, 0.0]), "has no direction"),
        (_with([1e308, 1e308, 1e308]), "has no direction"),
        (_with([1.0, -3.5e38, 1.0]), r"not between -3.4e\+38 and 3.4e\+38"),
        (_with(["a", 1.0, 1.0]), "data.1.embedding.0"),
        (_with("AAAA"), "data.1.embedding"),
        (_with([1.0] * 2001), "data.1.embedding: List should have at most 2000 items"),
        (lambda answer: {**answer, "data": answer["data"][:1]}, "1 vectors for 2 texts"),
        (lambda answer: {**answer, "data": answer["data"] * 2}, "4 vectors for 2 texts"),
        (lambda answer: {**answer, "data": [answer["data"][0]] * 2}, "not one for each"),
        (lambda answer: {"data": None}, "in data"),
        (lambda answer: b"<html>welcome</html>", "in the whole"),
        (lambda answer: b"", "in the whole"),
        (lambda answer: b"[" * 100_000, "in the whole"),
    ],
)
async def test_an_answer_without_a_usable_vector_a_text_fails(server, embed, clock, fault, message):
    server.faults = [fault]

    with pytest.raises(EmbedderAnswerUnusable, match=message) as caught:
        await embed("a", "bb")
    assert len(str(caught.value)) < 700
    assert clock.sleeps == []


async def test_vectors_of_another_length_than_was_chosen_are_refused(server, embed):
    server.faults = [lambda answer: _with([1.0] * 3)(answer)]

    with pytest.raises(EmbedderAnswerUnusable, match="all of the length 5"):
        await embed("a", "bb", dimensions=5)


@pytest.mark.parametrize(
    "fields",
    [
        {"base_url": f"https://user:{KEY}@example.com"},
        {"base_url": f"https://example.com/?key={KEY}"},
        {"api_key": f"{KEY}\n"},
        {"api_key": f"{KEY}ä"},
        {"model": ""},
        {"dimensions": 2001},
        {"batch_size": 0},
        {"deadline_seconds": 0},
    ],
    ids=str,
)
def test_a_wrong_field_is_refused_without_being_repeated(fields):
    with pytest.raises(ValidationError) as caught:
        OpenAIEmbedder(**fields)
    assert KEY not in str(caught.value)


def test_prefect_keeps_the_key_whole_and_secret():
    stored = OpenAIEmbedder(api_key=KEY).model_dump(mode="json", context={"include_secrets": True})

    assert stored["api_key"] == KEY
    assert OpenAIEmbedder.model_json_schema()["secret_fields"] == ["api_key"]
    assert KEY not in repr(OpenAIEmbedder(api_key=KEY))


def test_errors_survive_pickling():
    # Prefect stores a failed run's exception as its result.
    error = pickle.loads(pickle.dumps(EmbedderRefused("no", 404)))

    assert (str(error), error.status) == ("no", 404)
