import asyncio
import logging
from datetime import timedelta

import pytest
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import ValidationError

from blocks.github_service import (
    GitHub,
    GitHubAnswerUnusable,
    GitHubRefused,
    GitHubUnavailable,
)
from tests.github.conftest import serving
from tests.github.fake import (
    ABUSE,
    BROKEN,
    CUT,
    PRIMARY,
    SECONDARY,
    SLOW,
    TOKEN,
    Answer,
    FakeGitHub,
)

README = b"# Shop\n\nSells things.\n"


class TestBlock(BlockStandardTestSuite):
    @pytest.fixture
    def block(self):
        return GitHub


@pytest.fixture
async def github(organization, backoff):
    async with organization.connected(backoff=backoff) as session:
        yield session


# -- reading


async def test_a_page_holds_what_fits_and_names_what_does_not(fake, github):
    fake.add("shop", visibility="internal", description=None)
    fake.add("odd", pushed_at="yesterday")
    fake.repositories.append("nonsense")

    page = await github.repositories(1)

    [shop] = page.repositories
    assert (shop.name, shop.visibility, shop.owner, page.last) == ("shop", "internal", "acme", True)
    assert [(one.id, one.name) for one in page.misfits] == [
        (1002, "'acme/odd'"),
        (None, "'an entry without a name'"),
    ]
    assert page.misfits[0].reason.startswith("pushed_at: ")


@pytest.mark.parametrize("pushed_at", ["1899-12-31T23:59:59Z", "9000-01-01T00:00:01Z"])
async def test_a_push_in_a_year_that_no_record_takes_does_not_fit(fake, github, pushed_at):
    fake.add("shop", pushed_at=pushed_at)

    page = await github.repositories(1)

    assert page.repositories == []
    assert page.misfits[0].reason.startswith("pushed_at: ")


async def test_a_page_that_has_not_changed_is_not_sent_again(fake, github):
    fake.add("shop")
    first = await github.repositories(1)

    assert await github.repositories(1, first.etag) is None
    fake.repositories[0]["description"] = "Another."
    changed = await github.repositories(1, first.etag)

    assert changed.repositories[0].description == "Another."
    assert [request.status for request in fake.requests] == [200, 304, 200]


async def test_a_file_is_read_as_it_is_and_one_that_is_not_there_is_none(fake, github):
    fake.files["acme/shop", "docs/a b#c.json"] = b'{"a": 1}\n'
    fake.files["acme/shop", "README.md"] = README

    assert await github.file("acme/shop", "docs/a b#c.json", "feature/x") == b'{"a": 1}\n'
    assert await github.file("acme/shop", "docs", "main") is None
    assert await github.file("acme/shop", "LICENSE", "main") is None
    assert await github.readme("acme/shop", "main") == README
    assert fake.requests[0].query == {"ref": "feature/x"}


async def test_a_file_that_is_too_large_is_refused(fake, github):
    fake.files["acme/shop", "README.md"] = README

    assert await github.file("acme/shop", "README.md", "main", len(README)) == README
    with pytest.raises(GitHubAnswerUnusable, match="larger than 21 bytes"):
        await github.file("acme/shop", "README.md", "main", len(README) - 1)


async def test_a_tree_lists_the_files_with_their_hashes(fake, github):
    fake.files["acme/shop", "README.md"] = README

    [readme] = await github.tree("acme/shop", "main")

    assert (readme.path, len(readme.sha)) == ("README.md", 40)
    assert await github.tree("acme/empty", "main") == []


@pytest.mark.parametrize("path", ["../secrets", "docs/../../x", "docs//x", "", "a/./b"])
async def test_a_path_cannot_leave_its_repository(fake, github, path):
    with pytest.raises(ValueError, match="a path can hold"):
        await github.file("acme/shop", path, "main")
    with pytest.raises(ValueError, match="a path can hold"):
        await github.file(f"acme/{path}" if path else "acme", "README.md", "main")

    assert fake.requests == []


async def test_names_are_quoted_into_paths(fake, github):
    await github.file("acme/sh?op#x", "a%2e%2e/b", "main")

    assert fake.asked == ["GET /repos/acme/sh%3Fop%23x/contents/a%252e%252e/b"]


# -- what passes, and what does not


@pytest.mark.parametrize("setback", [BROKEN, CUT, SLOW], ids=["502", "cut", "slow"])
async def test_what_may_pass_is_tried_again(fake, github, clock, setback):
    fake.add("shop")
    fake.fail("repos", setback, setback)

    page = await github.repositories(1)

    assert [one.name for one in page.repositories] == ["shop"]
    assert clock.sleeps == [1, 5]


async def test_a_service_that_stays_broken_is_given_up_at_the_deadline(fake, organization, backoff):
    fake.fail("repos", *[BROKEN] * 20)

    async with organization.connected(deadline_seconds=60, backoff=backoff) as github:
        with pytest.raises(
            GitHubUnavailable, match=r"repos.*tries in .* 502 Told So: Server Error"
        ):
            await github.repositories(1)
        with pytest.raises(GitHubUnavailable, match=r"the rate limit|tries? in|are over"):
            await github.repositories(1)


async def test_a_body_that_drips_for_ever_ends_with_the_try(fake, organization, backoff):
    dripping = organization.model_copy(update={"read_seconds": 30.0, "try_seconds": 0.2})
    fake.add("shop")
    fake.fail("repos", SLOW)

    async with dripping.connected(backoff=backoff) as github:
        assert await github.repositories(1)


@pytest.mark.parametrize("name", ["Retry-After", "Date"])
async def test_a_date_that_does_not_exist_ends_no_run(fake, github, clock, name):
    fake.add("shop")
    odd = {name: "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}
    odd |= {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"}
    fake.fail("repos", Answer(503, headers=odd))

    assert await github.repositories(1)


@pytest.mark.parametrize("status", [401, 403, 404, 422])
async def test_a_refusal_is_not_tried_again(fake, github, clock, status):
    fake.fail("repos", Answer(status, {"message": "No such thing"}))

    with pytest.raises(GitHubRefused, match=f"{status} Told So: No such thing") as caught:
        await github.repositories(1)

    assert (caught.value.status, clock.sleeps, len(fake.requests)) == (status, [], 1)


async def test_a_redirection_is_not_followed(fake, github):
    elsewhere = {"Location": "https://elsewhere.example/repos"}
    fake.fail("repos", Answer(301, {"message": "Moved"}, headers=elsewhere))

    with pytest.raises(GitHubRefused, match=r"leads to https://elsewhere\.example/repos"):
        await github.repositories(1)


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[" * 100_000, b""])
async def test_an_answer_that_is_no_list_is_refused(fake, github, body):
    fake.fail("repos", Answer(body=body))

    with pytest.raises(GitHubAnswerUnusable, match="no list of at most 100 repositories"):
        await github.repositories(1)


async def test_a_page_of_more_entries_than_github_gives_is_refused(fake, github):
    fake.fail("repos", Answer(document=[0] * 101), Answer(document=[0] * 100))

    with pytest.raises(GitHubAnswerUnusable, match="no list of at most 100 repositories"):
        await github.repositories(1)
    assert len((await github.repositories(1)).misfits) == 100


async def test_another_organizations_list_is_refused(fake, github):
    fake.add("shop", full_name="globex/shop")

    with pytest.raises(GitHubAnswerUnusable, match=r"'globex/shop' among .* of 'acme'"):
        await github.repositories(1)


# -- rate limits


async def test_a_limit_that_is_used_up_is_waited_out_and_not_run_into(fake, github, clock):
    fake.add("shop")
    fake.remaining, fake.reset = 5, fake.now + timedelta(seconds=600)

    for _ in range(4):
        await github.repositories(1)

    # Three are kept for calls that are on their way.
    assert clock.sleeps == [601]
    assert [request.status for request in fake.requests] == [200] * 4


async def test_a_primary_limit_that_was_met_is_waited_out(fake, github, clock):
    fake.add("shop")
    fake.remaining, fake.reset = 0, fake.now + timedelta(seconds=30)

    assert await github.repositories(1)

    assert clock.sleeps == [31]
    assert [request.status for request in fake.requests] == [403, 200]


@pytest.mark.parametrize(
    ("met", "seconds"), [(SECONDARY, 60), (ABUSE, 17)], ids=["secondary", "retry-after"]
)
async def test_a_secondary_limit_holds_all_calls_back(fake, github, clock, met, seconds):
    fake.add("shop")
    fake.fail("repos", met)

    await asyncio.gather(*(github.repositories(1) for _ in range(3)))

    assert clock.now >= seconds
    assert [request.status for request in fake.requests].count(met.status) == 1


async def test_a_limit_that_lasts_beyond_the_deadline_is_told_at_once(fake, organization, backoff):
    fake.remaining, fake.reset = 0, fake.now + timedelta(hours=1)

    async with organization.connected(deadline_seconds=900, backoff=backoff) as github:
        with pytest.raises(GitHubUnavailable, match=r"1 try .* 403 .*API rate limit exceeded"):
            await github.repositories(1)


async def test_a_limit_with_a_reset_that_is_past_is_no_tight_loop(fake, github, clock):
    fake.add("shop")
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"}
    fake.fail("repos", *[Answer(403, PRIMARY.document, headers=headers)] * 3)

    assert await github.repositories(1)
    assert clock.sleeps == [1, 1, 1]


# -- signing in


async def test_an_app_signs_in_and_renews_its_token(fake, app, backoff, clock):
    fake.add("shop")

    async with GitHub(**app).connected(deadline_seconds=1e5, backoff=backoff) as github:
        assert await github.repositories(1)
        assert await github.repositories(1)
        clock.now += 3400
        assert await github.repositories(1)

    signing_in = ["GET /orgs/acme/installation", "POST /app/installations/99/access_tokens"]
    listing = "GET /orgs/acme/repos"
    assert fake.asked == [*signing_in, listing, listing, *signing_in, listing]


async def test_an_app_that_knows_its_installation_does_not_look_for_it(fake, app, backoff):
    async with GitHub(**app, installation_id=99).connected(backoff=backoff) as github:
        await asyncio.gather(github.repositories(1), github.repositories(1))

    assert fake.asked[0] == "POST /app/installations/99/access_tokens"
    assert len(fake.asked) == 3


async def test_an_app_that_is_not_installed_is_told_so(fake, app, backoff):
    fake.organization = "globex"

    async with GitHub(**app).connected(backoff=backoff) as github:
        with pytest.raises(GitHubRefused, match="orgs/acme/installation with 404"):
            await github.repositories(1)


async def test_a_key_that_lost_its_line_ends_still_signs(fake, app, backoff):
    for key in (app["private_key"].replace("\n", ""), app["private_key"].replace("\n", "\\n")):
        block = GitHub(**{**app, "private_key": key})
        async with block.connected(backoff=backoff) as github:
            assert (await github.repositories(1)).last


async def test_a_key_that_is_none_is_told_without_showing_it(fake, app, backoff):
    pem = "-----BEGIN RSA PRIVATE KEY-----\nc2VjcmV0\n-----END RSA PRIVATE KEY-----"

    async with GitHub(**{**app, "private_key": pem}).connected(backoff=backoff) as github:
        with pytest.raises(GitHubRefused, match="private_key cannot sign") as caught:
            await github.repositories(1)

    assert "c2VjcmV0" not in str(caught.value)


async def test_an_enterprise_server_is_asked_below_its_base_url(clock, backoff):
    async with serving(FakeGitHub(clock, prefix="/api/v3")) as enterprise:
        enterprise.add("shop")
        enterprise.files["acme/shop", "README.md"] = README
        address = f"{enterprise.address}/api/v3"
        block = GitHub(organization="Acme", token=TOKEN, base_url=address)
        # Its name is the same in any case.
        enterprise.organization = "Acme"
        async with block.connected(backoff=backoff) as github:
            page = await github.repositories(1)
            readme = await github.readme("acme/shop", "main")

    assert ([one.name for one in page.repositories], readme) == (["shop"], README)
    assert block.source == "127.0.0.1:acme"
    assert GitHub(organization="Acme", token=TOKEN).source == "github:acme"


# -- the block


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "Give token, or both"),
        ({"app_id": "4711"}, "Give token, or both"),
        ({"token": TOKEN, "app_id": "4711"}, "Give either"),
        ({"app_id": "4711", "private_key": "no key"}, "text of a `.pem` file"),
        ({"token": "two words"}, "visible ASCII"),
        ({"token": TOKEN, "organization": "acme/../x"}, "pattern"),
        ({"token": TOKEN, "base_url": "https://u:p@github.example.com"}, "must not hold a user"),
    ],
)
def test_a_block_that_cannot_work_says_why(fields, said):
    with pytest.raises(ValidationError, match=said) as caught:
        GitHub(**{"organization": "acme", **fields})

    assert TOKEN not in str(caught.value)


async def test_no_secret_gets_into_a_log_or_an_error(fake, github, caplog):
    caplog.set_level(logging.DEBUG)
    fake.tokens.clear()
    leaking = Answer(502, {"message": f"upstream refused {TOKEN}"})
    fake.fail("repos", leaking, CUT)

    with pytest.raises(GitHubRefused, match=r"401 .*Bad credentials \*\*\*") as caught:
        await github.repositories(1)

    assert "trying again" in caplog.text
    assert TOKEN not in caplog.text + str(caught.value) + repr(caught.value)
