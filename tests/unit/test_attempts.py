import pytest

from deployments.history import PUT_OFF, attempts
from flows.circuit import PUT_OFF_LABEL
from workers import lease


@pytest.mark.parametrize(
    ("run_count", "labels", "expected"),
    [
        (3, {PUT_OFF: 2}, 1),
        (2, {}, 2),
        (2, None, 2),
        (1, {PUT_OFF: 1}, 0),
        (1, {PUT_OFF: 9}, 0),
        (1, {PUT_OFF: "2"}, 1),
    ],
)
def test_starts_that_only_put_a_run_off_are_no_attempts(run_count, labels, expected):
    assert attempts({"run_count": run_count, "labels": labels}) == expected


def test_all_who_read_the_label_know_its_name():
    assert PUT_OFF == PUT_OFF_LABEL == lease.PUT_OFF
