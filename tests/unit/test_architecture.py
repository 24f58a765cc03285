"""The lines between the packages, as `CONTRIBUTING.md` and the design draw them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
LONGEST_FILE = 450  # lines

MAY_IMPORT = {
    "flows": {"blocks"},
    "blocks": set(),
    "deployments": {"store"},
    "store": set(),
    "api": {"store", "deployments"},
    "workers": set(),
    "examples": set(),
    "scripts": {"flows", "blocks", "deployments", "store", "api", "workers", "examples"},
}

MAY_ALSO_IMPORT = {
    # The one duty that is about Rota itself: it sweeps. It imports them only when it runs, so that
    # a worker of the other duties needs neither.
    "flows.reconcile": {"deployments", "store"},
    # It looks into the package for the duties that there are.
    "deployments.duties": {"flows"},
}

PURE = ["cron", "desired", "plan", "policy", "schedule", "spec", "zones"]

FROM_PREFECT = {
    "deployments.bound": {"prefect.Flow"},
    "deployments.duties": {"prefect.Flow", "prefect.utilities.callables.parameter_schema"},
    # The shape of what it returns; it gets it by way of the gateway.
    "deployments.block": {"prefect.exceptions.ObjectNotFound"},
    "deployments.runs": {"prefect.client.schemas.objects.FlowRun"},
}

TAKEN = sys.stdlib_module_names | packages_distributions().keys()


def packages() -> list[str]:
    """Those of the packages that there are; not all of them have been built yet."""
    return [name for name in MAY_IMPORT if (PROJECT / name / "__init__.py").is_file()]


def modules(package: str) -> list[Path]:
    found = sorted((PROJECT / package).rglob("*.py"))
    assert found
    return found


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__")


def imports(source: str) -> Iterator[str]:
    """Yield the full name of whatever the source imports, wherever in it.

    What is imported for the type checker only is left out.
    """
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "write imports in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def of(name: str, roots: set[str]) -> bool:
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def imports_of(path: Path) -> set[str]:
    return set(imports(path.read_text()))


ALL = [path for package in packages() for path in modules(package)]


def test_imports_are_found_wherever_they_stand():
    source = """
import a, b.c
from d.e import f as g
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import h
else:
    import i
def later():
    try:
        from j import k
    except ImportError:
        import l
"""
    found = {"a", "b.c", "d.e.f", "typing.TYPE_CHECKING", "i", "j.k", "l"}
    assert set(imports(source)) == found


def test_every_package_has_its_line():
    installed = {path.parent.name for path in PROJECT.glob("*/__init__.py")}

    assert installed - {"tests", "benchmarks"} == set(packages())


@pytest.mark.parametrize("path", ALL, ids=dotted)
def test_packages_keep_to_their_lines(path: Path):
    name = dotted(path)
    own = name.partition(".")[0]
    allowed = {own} | MAY_IMPORT[own] | MAY_ALSO_IMPORT.get(name, set())

    ours = {found for found in imports_of(path) if of(found, set(MAY_IMPORT))}
    assert [found for found in sorted(ours) if not of(found, allowed)] == []


@pytest.mark.parametrize("name", MAY_ALSO_IMPORT)
def test_exceptions_are_still_needed(name: str):
    path = PROJECT / f"{name.replace('.', '/')}.py"

    assert all(
        any(of(found, {root}) for found in imports_of(path)) for root in MAY_ALSO_IMPORT[name]
    )


@pytest.mark.parametrize("path", modules("deployments"), ids=dotted)
def test_only_the_gateway_knows_prefect_s_api(path: Path):
    name = dotted(path)
    engine = {found for found in imports_of(path) if of(found, {"prefect", "httpx"})}

    if name == "deployments.gateway":
        assert engine >= {"httpx", "prefect.client.orchestration.get_client"}
    else:
        assert engine <= FROM_PREFECT.get(name, set())


def test_nothing_else_has_a_client_of_prefect():
    """But for the worker, which is one. `prefect.client.schemas` holds shapes, not a client."""
    having = {
        dotted(path)
        for path in ALL
        for found in imports_of(path)
        if not of(dotted(path), {"workers"})
        and of(found, {"prefect.client", "prefect.get_client"})
        and not of(found, {"prefect.client.schemas"})
    }
    # What the cleaner deletes is Prefect's alone, and its workers have nothing of the gateway.
    assert having == {"deployments.gateway", "flows.old_runs"}


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_bring_neither_prefect_nor_sqlalchemy(name: str):
    """Asks Python itself, so what they import in turn counts too."""
    heavy = {"prefect", "sqlalchemy", "httpx", "asyncpg", "pydantic", "store", "flows", "blocks"}
    script = f"import sys, deployments.{name}; print(*sorted({heavy} & sys.modules.keys()))"

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == []


@pytest.mark.parametrize("name", ["cron", "schedule", "zones"])
def test_schedules_need_the_standard_library_only(name: str):
    path = PROJECT / "deployments" / f"{name}.py"
    roots = {found.partition(".")[0] for found in imports_of(path)}

    assert roots <= sys.stdlib_module_names | {"deployments"}


@pytest.mark.parametrize("path", [*modules("flows"), *modules("blocks")], ids=dotted)
def test_no_file_hides_a_module_of_somebody_else(path: Path):
    """Prefect puts a script's directory on `sys.path`, and then the nearest one wins."""
    assert path.stem not in TAKEN


@pytest.mark.parametrize("path", ALL, ids=dotted)
def test_a_file_has_one_subject_and_room_for_it(path: Path):
    assert len(path.read_text().splitlines()) <= LONGEST_FILE
