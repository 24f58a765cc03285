"""The rules of health: what a check does to what is known, to the status, and to incidents."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import health
from store.health import FLAPPING, UNREACHABLE, Check, Health, Judged, Trouble

START = datetime(2026, 3, 1, 7, tzinfo=UTC)
DISK = ("resource_exhausted", "disk /var")
SKEW = ("clock_skew", "")

UP, DOWN, UNKNOWN = (Check(outcome) for outcome in ("up", "down", "unknown"))
FULL = Check("up", problems=[Trouble(DISK[0], "critical", "disk /var is 96 % full", DISK[1])])
FILLING = Check("up", problems=[Trouble(DISK[0], "degraded", "disk /var is 91 % full", DISK[1])])
LATE = Check("up", problems=[Trouble(SKEW[0], "degraded", "is 40 s late")])
BOTH = Check("up", problems=[*FULL.problems, *LATE.problems])
CHANGED_KEY = Check(
    "unknown", "the host key differs", problems=[Trouble("host_key_changed", "critical", "differs")]
)


class House:
    """One server and its incidents, as the store keeps them."""

    def __init__(self, status: str = "active", failures_needed: int = 2) -> None:
        self.health = Health()
        self.status = status
        self.open: dict[Any, str] = {}
        self.history: list[tuple[str, Any]] = []
        self._needed = failures_needed
        self._at = START

    def check(self, check: Check, *, maintenance: bool = False) -> Judged:
        self._at += timedelta(minutes=1)
        judged = health.judge(
            self.health, self.status, check, self._at, self._needed, maintenance=maintenance
        )
        self.health, self.status = health.settled(judged, ()), judged.status
        for one in judged.opening:
            if (one.kind, one.about) not in self.open:
                self.history.append(("opened", (one.kind, one.about)))
            self.open[one.kind, one.about] = one.severity
        for identity in judged.closing:
            if self.open.pop(identity, None):
                self.history.append(("closed", identity))
        return judged


def after(checks: Iterable[Check], status: str = "active", needed: int = 2) -> House:
    house = House(status, needed)
    for check in checks:
        house.check(check)
    return house


# -- the table: checks, then state, failures, status, open incidents

CASES: dict[str, tuple[Sequence[Check], str, int, str, dict[Any, str]]] = {
    "nothing is known before a check": ([], "unknown", 0, "active", {}),
    "one that answers is up": ([UP], "up", 0, "active", {}),
    "one failure is not enough": ([UP, DOWN], "up", 1, "active", {}),
    "two in a row are": ([UP, DOWN, DOWN], "down", 2, "unreachable", {UNREACHABLE: "critical"}),
    "two failures apart are not": ([DOWN, UP, DOWN], "up", 1, "active", {}),
    "what is unknown does not count": ([UP, DOWN, UNKNOWN], "up", 1, "active", {}),
    "nor does it begin anew": (
        [UP, DOWN, UNKNOWN, DOWN],
        "down",
        2,
        "unreachable",
        {UNREACHABLE: "critical"},
    ),
    "what is unknown changes no state": (
        [DOWN, DOWN, UNKNOWN, UNKNOWN],
        "down",
        2,
        "unreachable",
        {UNREACHABLE: "critical"},
    ),
    "an answer ends it": ([DOWN, DOWN, UP], "up", 0, "active", {}),
    "a problem opens at once": ([FILLING], "degraded", 0, "active", {DISK: "warning"}),
    "the state is the worst of them": (
        [BOTH],
        "critical",
        0,
        "active",
        {DISK: "critical", SKEW: "warning"},
    ),
    "a problem may get worse": ([FILLING, FULL], "critical", 0, "active", {DISK: "critical"}),
    "one that is gone is closed": ([BOTH, LATE], "degraded", 0, "active", {SKEW: "warning"}),
    "one failure closes no problem": ([FULL, DOWN], "critical", 1, "active", {DISK: "critical"}),
    "nor does what is unknown": ([FULL, UNKNOWN], "critical", 0, "active", {DISK: "critical"}),
    "a problem may be seen where the outcome is unknown": (
        [UP, CHANGED_KEY],
        "up",
        0,
        "active",
        {("host_key_changed", ""): "critical"},
    ),
    "and is over when it answers": ([CHANGED_KEY, UP], "up", 0, "active", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_checks_lead_to(case: str) -> None:
    checks, state, failures, status, opened = CASES[case]
    house = after(checks)
    assert (house.health.state, house.health.failures, house.status) == (state, failures, status)
    assert house.open == opened


@pytest.mark.parametrize("status", sorted(health.IN_SERVICE))
def test_a_server_gets_back_the_status_that_it_had(status: str) -> None:
    house = after([UP, DOWN, DOWN], status)
    assert (house.status, house.health.status_before) == ("unreachable", status)
    house.check(UP)
    assert (house.status, house.health.status_before) == (status, None)


def test_one_that_somebody_called_unreachable_becomes_active_when_it_answers() -> None:
    assert after([UP], "unreachable").status == "active"


@pytest.mark.parametrize(
    "status", "discovered pending_setup provisioning maintenance reserved missing".split()
)
def test_of_a_server_that_is_not_in_service_checks_are_recorded_and_nothing_opens(
    status: str,
) -> None:
    house = after([BOTH, DOWN, DOWN], status)
    assert (house.health.state, house.health.history, house.status) == ("down", "UDD", status)
    assert house.history == []


def test_a_status_that_somebody_sets_meanwhile_stays() -> None:
    house = after([DOWN, DOWN])
    house.status = "decommissioned"
    house.check(UP)
    assert house.status == "decommissioned"


@pytest.mark.parametrize(("needed", "status"), [(1, "unreachable"), (3, "active")])
def test_how_many_failures_it_takes_can_be_said(needed: int, status: str) -> None:
    assert after([DOWN], needed=needed).status == status


def test_the_reason_is_kept_until_it_answers() -> None:
    house = House(failures_needed=1)
    opening = house.check(Check("down", "connection refused")).opening
    assert opening[0].title == "cannot be reached: connection refused"
    assert house.health.reason == "connection refused"
    house.check(UP)
    assert house.health.reason is None


def test_facts_stay_until_there_are_others() -> None:
    house = after([Check("up", facts={"load": 1}), DOWN, UNKNOWN, UP])
    assert house.health.facts == {"load": 1}


def test_a_state_knows_since_when_it_holds() -> None:
    house = after([UP, UP, UP])
    assert house.health.since == START + timedelta(minutes=1)


def test_the_worse_of_two_problems_with_one_name_counts() -> None:
    for problems in ([*FULL.problems, *FILLING.problems], [*FILLING.problems, *FULL.problems]):
        assert after([Check("up", problems=problems)]).open == {DISK: "critical"}


def test_what_somebody_resolved_too_early_opens_again_while_it_is_seen() -> None:
    house = after([FULL])
    house.open.clear()
    house.check(FULL)
    assert house.open == {DISK: "critical"}


# -- maintenance


def test_in_maintenance_nothing_opens_and_afterwards_what_is_still_so_does() -> None:
    house = House()
    for check in (BOTH, DOWN, DOWN):
        house.check(check, maintenance=True)
    assert (house.history, house.status, house.health.state) == ([], "active", "down")
    house.check(UNKNOWN)
    assert (house.history, house.status) == ([], "active")
    house.check(DOWN)
    assert (house.history, house.status) == ([("opened", UNREACHABLE)], "unreachable")


def test_what_is_over_in_maintenance_is_closed() -> None:
    house = after([FULL, DOWN, DOWN])
    house.check(UP, maintenance=True)
    assert (house.open, house.status) == ({}, "active")


@pytest.mark.parametrize(
    ("since", "until", "inside"),
    [
        (None, None, False),
        (0, 10, True),
        (0, 0.5, True),
        (1, 10, False),
        (-10, 0, False),
        (-10, None, True),
        (1, None, False),
        (None, 1, True),
        (None, 0, False),
    ],
)
def test_a_window_holds_from_its_beginning_to_before_its_end(
    since: float | None, until: float | None, inside: bool
) -> None:
    ends = [None if one is None else START + timedelta(hours=one) for one in (since, until)]
    assert health.in_window(ends[0], ends[1], START) is inside


# -- flapping


@pytest.mark.parametrize(
    ("history", "percent"),
    [
        ("", 0),
        ("N", 0),
        ("U" * 21, 0),
        ("UD" * 10 + "U", 100),
        ("D" + "U" * 20, 4),  # the oldest step weighs 0.8 of 20
        ("U" * 20 + "D", 6),  # the newest 1.2
        ("UD", 6),
        ("UND", 6),
        ("NNNUD", 6),
        ("UNU", 0),
        # Changes at the steps 3, 4, 5, 9, 12, 16 and 19 of 20.
        ("UUUDUDDDDUUUDDDDUUUDD", 34.4),
    ],
)
def test_changes_weigh_the_more_the_newer_they_are(history: str, percent: float) -> None:
    assert health.flap_percent(history) == pytest.approx(percent, abs=0.05)


def test_a_server_that_goes_up_and_down_is_told_of_once() -> None:
    house = after([UP, DOWN] * 12, needed=1)
    assert house.health.flapping
    assert house.health.history == ("UD" * 12)[-21:]
    assert house.history.count(("opened", FLAPPING)) == 1
    assert house.open[FLAPPING] == "warning"
    before = len(house.history)
    for check in (UP, DOWN, DOWN, DOWN, UP):
        house.check(check)
    assert len(house.history) == before


def test_when_flapping_ends_what_is_so_then_counts() -> None:
    house = after([UP, DOWN] * 12, needed=1)
    while house.health.flapping:
        house.check(DOWN)
    assert house.open == {UNREACHABLE: "critical"}
    assert house.status == "unreachable"
    other = after([UP, DOWN] * 12, needed=1)
    while other.health.flapping:
        other.check(UP)
    assert (other.open, other.status) == ({}, "active")


def test_flapping_begins_at_thirty_percent_and_ends_below_twenty() -> None:
    house = after([UP, DOWN] * 12)
    percents = []
    while house.health.flapping:
        percents.append(health.flap_percent(house.health.history))
        house.check(UP)
    assert min(percents) >= 20 > health.flap_percent(house.health.history)
    house = House()
    for check in [UP, DOWN] * 3:
        house.check(check)
        assert house.health.flapping == (health.flap_percent(house.health.history) >= 30)


def test_problems_are_told_of_while_it_is_flapping() -> None:
    house = after([UP, DOWN] * 6)
    assert house.health.flapping
    house.check(FULL)
    assert DISK in house.open
    house.check(UP)
    assert DISK not in house.open


# -- the prober


@pytest.mark.parametrize(
    ("before", "outcomes", "failed"),
    [
        ("", "", False),
        ("UUUU", "DDDD", False),
        ("UUUUU", "DDDDD", True),
        ("UUUUU", "DDNUU", True),
        ("UUUUU", "DDUUU", False),
        ("UUUUUU", "DDDUUU", False),
        ("UUUUUUU", "NNNNUUU", True),
        ("-----", "NNNNN", True),
        # What is no news says nothing of who looks.
        ("NNUUU", "NNDUU", False),
        ("DDUUU", "NNDUU", False),
        ("NNUUU", "NNDDD", True),
        ("DDDDD", "DDDDD", False),
    ],
)
def test_a_sweep_in_which_most_fail_anew_says_more_of_who_looks(
    before: str, outcomes: str, failed: bool
) -> None:
    names = {"U": "up", "D": "down", "N": "unknown"}
    looks = [
        ("DU" + last if last != "-" else "", names[one])
        for last, one in zip(before, outcomes, strict=True)
    ]
    assert health.prober_failed(looks) is failed


# -- what holds for any checks


troubles = st.builds(
    Trouble,
    kind=st.sampled_from(["resource_exhausted", "service_down"]),
    level=st.sampled_from(["degraded", "critical"]),
    text=st.just("bad"),
    about=st.sampled_from(["", "disk /"]),
)
checks = st.builds(
    Check,
    outcome=st.sampled_from(["up", "down", "unknown"]),
    reason=st.none() | st.just("timeout"),
    facts=st.none() | st.just({"load": 1.5}),
    problems=st.lists(troubles, max_size=3),
)
looks = st.lists(st.tuples(checks, st.booleans()), max_size=60)
needed = st.integers(1, 4)


def _houses(found: list[tuple[Check, bool]], needed: int) -> Iterator[tuple[House, Check, bool]]:
    house = House(failures_needed=needed)
    for check, maintenance in found:
        house.check(check, maintenance=maintenance)
        yield house, check, maintenance


@given(looks, needed)
def test_what_is_opened_was_not_open_and_what_is_closed_was(found: Any, needed: int) -> None:
    open_: set[Any] = set()
    for house, _, _ in _houses(found, needed):
        while house.history:
            what, identity = house.history.pop(0)
            assert (identity in open_) == (what == "closed")
            open_ ^= {identity}


@given(looks, needed)
def test_nothing_is_opened_in_maintenance(found: Any, needed: int) -> None:
    for house, _, maintenance in _houses(found, needed):
        assert not (maintenance and any(what == "opened" for what, _ in house.history))
        house.history.clear()


@given(looks, needed)
def test_no_check_both_opens_and_closes_the_same(found: Any, needed: int) -> None:
    house = House(failures_needed=needed)
    for check, maintenance in found:
        judged = house.check(check, maintenance=maintenance)
        assert not {(one.kind, one.about) for one in judged.opening} & judged.closing


@given(looks, needed)
def test_while_it_flaps_no_up_and_down_is_told_and_the_status_stays(
    found: Any, needed: int
) -> None:
    status, known = "active", False
    for house, _, _ in _houses(found, needed):
        if house.health.flapping:
            assert (UNREACHABLE in house.open) == known
            assert house.status == status
        status, known = house.status, UNREACHABLE in house.open


@given(looks, needed)
def test_once_it_answers_and_does_not_flap_only_what_it_says_is_open(
    found: Any, needed: int
) -> None:
    for house, check, maintenance in _houses(found, needed):
        if check.outcome == "up" and not house.health.flapping:
            said = {one.identity for one in check.problems}
            assert house.open.keys() <= said if maintenance else house.open.keys() == said
            assert house.status == "active"


@given(looks, needed)
def test_what_is_stored_is_read_back_as_it_was(found: Any, needed: int) -> None:
    for house, _, _ in _houses(found, needed):
        assert len(house.health.history) <= health.STATES
        assert health.read(health.written(house.health)) == house.health


def test_what_is_over_and_could_not_be_closed_is_closed_again_once_the_server_is_up() -> None:
    def look(known: Health, check: Check, minute: int) -> Judged:
        return health.judge(known, "active", check, START + timedelta(minutes=minute))

    found = look(after([FULL]).health, UP, 2)
    assert DISK in found.closing
    left = health.settled(found, {DISK})
    assert health.read(health.written(left)) == left
    assert DISK not in look(left, DOWN, 3).closing
    kept = health.settled(look(left, DOWN, 3), ())
    assert DISK in look(kept, UP, 4).closing
    assert DISK not in look(kept, FULL, 4).closing
    assert health.settled(look(kept, UP, 4), ()).unclosed == ()


def test_of_a_server_that_was_never_checked_nothing_is_known() -> None:
    assert health.read({}) == Health()
