import pytest

from flows.blocks_by_name import ForeignBlock, MissingBlock, check_owner


@pytest.mark.parametrize(
    "name",
    [
        "globex-%2Dops",
        "globex%2d%2dops",
        "globex--ops/",
        "globex--ops?/",
        "globex--ops#/",
        "globex--ops/x/..",
        "x/../globex-%2Dops",
        "secret/globex--ops?/",
        "secret/globex-%2Dops",
        "Ops",
        "ops\n",
        "",
    ],
)
def test_a_name_that_an_address_would_change_is_no_block_s(name):
    with pytest.raises(MissingBlock, match="lower-case letters, digits and dashes"):
        check_owner(name, "acme")


@pytest.mark.parametrize("name", ["globex--ops", "secret/globex--ops", "acme--a/globex--ops"])
def test_a_block_of_another_tenant_s_is_refused(name):
    with pytest.raises(ForeignBlock, match="is another tenant's"):
        check_owner(name, "acme")


@pytest.mark.parametrize("name", ["ops", "slack-webhook/ops", "acme--ops", "secret/acme--ops"])
def test_a_block_of_one_s_own_or_for_all_is_not(name):
    check_owner(name, "acme")
