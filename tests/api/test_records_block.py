"""The block by which flows write, against the API that they write to."""

import asyncio

import pytest

from blocks import Records
from blocks.records import RecordsRefused

pytestmark = pytest.mark.acceptance


@pytest.fixture
async def records(served, api, acme):
    return Records(base_url=served.url, token=await api.token(f"editor@{acme}"))


async def test_a_batch_is_written_and_read_page_by_page(records, acme, a_definition):
    wanted = [a_definition(f"d-{number}") for number in range(5)]

    async with records.of(acme) as mine:
        first = await mine.put("definitions", body={"definitions": wanted})
        again = await mine.put(
            "definitions", body={"definitions": wanted[1:]}, params={"prune": True}
        )
        pages = [page async for page in mine.pages("definitions", params={"q": "d-"}, size=3)]

    assert first["created"] == [f"d-{number}" for number in range(5)]
    assert (again["unchanged"], again["deleted"]) == ([f"d-{n}" for n in range(1, 5)], ["d-0"])
    assert [[one["name"] for one in page] for page in pages] == [["d-1", "d-2", "d-3"], ["d-4"]]


async def test_one_record_is_added_changed_read_and_deleted(records, acme, a_definition):
    async with records.of(acme) as mine:
        await mine.post("definitions", body=a_definition("nightly"))
        await mine.patch("definitions", "nightly", body={"title": "Nightly"})
        read = await mine.get("definitions", "nightly")
        gone = [await mine.delete("definitions", "nightly") for _ in range(2)]

    assert (read["title"], gone) == ("Nightly", [True, False])


async def test_a_refusal_names_the_field(records, acme, a_definition):
    async with records.of(acme) as mine:
        with pytest.raises(RecordsRefused, match=r"422 .*retries: -1") as caught:
            await mine.post("definitions", body=a_definition(retries=-1))

    assert [field for field, _ in caught.value.errors] == ["retries"]


async def test_another_tenants_records_are_not_there(records, sql):
    await sql.execute("insert into tenants (slug) values ('globex')")

    async with records.of("globex") as theirs:
        with pytest.raises(RecordsRefused, match="404 Not Found: There is no tenant 'globex'"):
            await theirs.get("definitions")


async def test_a_restart_of_the_api_is_waited_out(records, served, acme, a_definition):
    async with records.of(acme) as mine:
        await mine.get("definitions")
        served.kill()
        written, _ = await asyncio.gather(
            mine.put("definitions", body={"definitions": [a_definition("nightly")]}),
            asyncio.to_thread(served.start_again),
        )

    assert written["created"] == ["nightly"]
