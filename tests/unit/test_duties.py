"""Where duties come from, and how a run of one gets its definition's policies."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from prefect.flows import load_flow_from_entrypoint

from deployments import bound
from deployments.duties import UnknownDuty, bind, describe, discover, load
from deployments.spec import environment
from flows.workflow_run import workflow_run

MODULES = {
    "acme_cleanup.py": '''
        from prefect import flow

        @flow(name="acme-cleanup", retries=7, retry_delay_seconds=3, timeout_seconds=90)
        def cleanup(days: int, dry: bool = False) -> int:
            """Remove what is old."""
            return days

        not_a_flow = 3
    ''',
    "acme_missing.py": "import acme_no_such_module",
    "acme_raises.py": "raise RuntimeError('no licence\\nand a second line')",
    "acme_exits.py": "raise SystemExit(2)",
    "acme_pattern.py": r"""
        from typing import Annotated

        from prefect import flow
        from pydantic import Field

        @flow(name="acme-pattern")
        def pattern(word: Annotated[str, Field(pattern=r"^\p{L}+$")]) -> None: ...
    """,
}

ENTRY_POINTS = """
[console_scripts]
acme = acme_cleanup:cleanup

[rota.duties]
cleanup = acme_cleanup:cleanup
tidy_up = acme_cleanup:cleanup
load = acme_cleanup:cleanup
Flow = acme_cleanup:cleanup
workflow_run = acme_cleanup:cleanup
acme.cleanup = acme_cleanup:cleanup
_cleanup = acme_cleanup:cleanup
not_a_flow = acme_cleanup:not_a_flow
nothing = acme_cleanup:nothing
missing = acme_missing:missing
raises = acme_raises:raises
exits = acme_exits:exits
pattern = acme_pattern:pattern
"""


@pytest.fixture(scope="module", autouse=True)
def acme(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """Installs a distribution that brings duties, as pip would, in a directory of its own.

    Yields the one of its modules that loads. Once a module, for Prefect warns of a flow that is
    defined twice.
    """
    site = tmp_path_factory.mktemp("site")
    for name, source in MODULES.items():
        _write(site / name, source)
    _write(site / "acme-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: acme\nVersion: 1.0")
    _write(site / "acme-1.0.dist-info/entry_points.txt", ENTRY_POINTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        yield importlib.import_module("acme_cleanup")
    for name in MODULES:
        sys.modules.pop(name.removesuffix(".py"), None)


def _write(path: Path, text: str) -> None:
    lines = text.strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(line[indent:] for line in lines) + "\n")


class TestDiscover:
    def test_a_module_of_flows_is_a_duty_if_it_holds_a_flow_of_its_name(self):
        duties, broken = discover()

        assert duties["workflow_run"].flow_name == "workflow-run"
        assert "occurrence" not in duties.keys() | broken.keys()

    def test_a_package_brings_duties_by_entry_points(self):
        duty = discover()[0]["cleanup"]

        assert duty.name == "cleanup"
        assert duty.flow_name == "acme-cleanup"
        assert duty.description == "Remove what is old."
        assert duty.entrypoint == "deployments.bound.cleanup"
        assert duty.schema["required"] == ["days"]
        assert duty.schema["properties"]["days"]["type"] == "integer"
        assert duty.schema["properties"]["dry"]["default"] is False

    def test_one_flow_may_be_several_duties(self):
        duties = discover()[0]

        assert duties["tidy_up"].flow_name == duties["cleanup"].flow_name
        assert duties["tidy_up"].entrypoint == "deployments.bound.tidy_up"

    def test_a_duty_of_this_project_is_not_replaced(self):
        assert load("workflow_run") is workflow_run

    def test_other_groups_bring_none(self):
        assert "acme" not in discover()[0]

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            (
                "missing",
                "acme_missing:missing does not load: ModuleNotFoundError: No module named "
                "'acme_no_such_module'",
            ),
            ("raises", "acme_raises:raises does not load: RuntimeError: no licence"),
            ("exits", "acme_exits:exits does not load: SystemExit: 2"),
            (
                "not_a_flow",
                "acme_cleanup:not_a_flow does not load: ImportError: acme_cleanup:not_a_flow is "
                "not a Prefect flow",
            ),
            (
                "nothing",
                "acme_cleanup:nothing does not load: ImportError: acme_cleanup:nothing is not a "
                "Prefect flow",
            ),
            (
                "pattern",
                "acme_pattern:pattern does not load: SchemaError: '^\\\\p{L}+$' is not a 'regex'",
            ),
            (
                "acme.cleanup",
                "acme_cleanup:cleanup does not load: ValueError: 'acme.cleanup' is no name for a "
                "duty; use letters, digits and underscores",
            ),
            (
                "_cleanup",
                "acme_cleanup:cleanup does not load: ValueError: '_cleanup' is no name for a duty; "
                "use letters, digits and underscores",
            ),
        ],
    )
    def test_what_does_not_load_is_told_and_hinders_no_other(self, name, reason):
        duties, broken = discover()

        assert broken[name] == reason
        assert name not in duties
        assert {"cleanup", "workflow_run"} <= duties.keys()


class TestLoad:
    def test_loads_the_flow_as_its_source_has_it(self, acme: ModuleType):
        assert load("cleanup") is acme.cleanup

    def test_unknown(self):
        with pytest.raises(UnknownDuty, match="clean_up"):
            load("clean_up")

    def test_known_but_broken(self):
        with pytest.raises(ModuleNotFoundError, match="acme_no_such_module"):
            load("missing")


class TestDuty:
    def test_checks_parameters(self, acme: ModuleType):
        duty = describe("cleanup", acme.cleanup)

        assert not list(duty.validator.iter_errors({"days": 3}))
        (error,) = duty.validator.iter_errors({"days": "three"})
        assert list(error.absolute_path) == ["days"]

    @pytest.mark.parametrize("name", ["", "a-b", "a.b", "a:b", "1st", "__path__"])
    def test_a_name_must_fit_into_an_entrypoint(self, name, acme: ModuleType):
        with pytest.raises(ValueError, match="is no name for a duty"):
            describe(name, acme.cleanup)


class TestBind:
    def test_a_definition_has_the_last_word(self, acme: ModuleType):
        flow = bind(acme.cleanup, environment(2, 30, 45.5))

        assert (flow.retries, flow.retry_delay_seconds, flow.timeout_seconds) == (2, 30, 45.5)

    def test_a_definition_may_take_away_what_the_source_has(self, acme: ModuleType):
        flow = bind(acme.cleanup, environment(0, 0, None))

        assert (flow.retries, flow.retry_delay_seconds, flow.timeout_seconds) == (0, 0, None)

    def test_without_a_definition_the_source_stands(self, acme: ModuleType):
        flow = bind(acme.cleanup, {})

        assert (flow.retries, flow.retry_delay_seconds, flow.timeout_seconds) == (7, 3, 90)

    def test_the_environment_is_the_process_s_own(self, acme, monkeypatch):
        for name, value in environment(4, 5, None).items():
            monkeypatch.setenv(name, value)

        assert bind(acme.cleanup).retries == 4

    def test_the_flow_itself_stays_as_it_was(self, acme: ModuleType):
        flow = bind(acme.cleanup, environment(2, 30, 45))

        assert flow is not acme.cleanup
        assert (flow.name, flow.fn) == (acme.cleanup.name, acme.cleanup.fn)
        assert acme.cleanup.retries == 7
        assert acme.cleanup.timeout_seconds == 90


class TestBound:
    def test_an_attribute_is_a_duty_bound_to_the_environment(self, monkeypatch):
        for name, value in environment(6, 1, 12).items():
            monkeypatch.setenv(name, value)

        assert bound.workflow_run.fn is workflow_run.fn
        assert bound.workflow_run.retries == 6
        assert bound.cleanup.timeout_seconds == 12

    def test_prefect_loads_it(self, monkeypatch):
        monkeypatch.setenv("ROTA_RETRIES", "6")

        for name, flow_name in [("workflow_run", "workflow-run"), ("cleanup", "acme-cleanup")]:
            flow = load_flow_from_entrypoint(f"deployments.bound.{name}")
            assert (flow.name, flow.retries) == (flow_name, 6)

    @pytest.mark.parametrize("name", ["load", "Flow"])
    def test_no_name_of_a_duty_is_taken(self, name):
        assert getattr(bound, name).name == "acme-cleanup"

    def test_unknown(self):
        with pytest.raises(AttributeError, match="clean_up"):
            bound.clean_up  # noqa: B018
        assert not hasattr(bound, "__path__")

    def test_broken(self):
        with pytest.raises(ModuleNotFoundError, match="acme_no_such_module"):
            bound.missing  # noqa: B018
