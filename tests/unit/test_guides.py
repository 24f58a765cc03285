"""The README and the guides name what there is: commands, columns, tests, files."""

import re
from pathlib import Path

import pytest
from sqlalchemy import inspect

from scripts.rota import app
from store.models import Definition

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(of, before=""):
    """Yields the words of each command that can be given."""
    for one in of.registered_commands:
        yield f"{before}{one.name or one.callback.__name__.replace('_', '-')}"
    for one in of.registered_groups:
        yield from commands(one.typer_instance, f"{before}{one.name} ")


def test_every_command_stands_in_the_readme():
    table = README.partition("## The commands")[2].partition("\n## ")[0]
    assert [one for one in commands(app) if one.split()[-1] not in table] == []


def test_every_column_of_a_definition_stands_in_the_readme():
    table = README.partition("## The columns of")[2].partition("\n## ")[0]
    columns = [one.key for one in inspect(Definition).columns]
    assert [one for one in columns if f"`{one}`" not in table] == []


def test_every_proof_of_a_promise_is_there():
    proofs = re.findall(r"`(tests/[\w/]+(?:\.py)?)((?:::\w+)*)`", README)
    assert len(proofs) > 30
    for path, name in proofs:
        assert (ROOT / path).exists(), path
        assert not name or f"def {name[2:]}(" in (ROOT / path).read_text(), name


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(guide):
    for target in re.findall(r"\]\(([^)#\s]*)(?:#[^)]*)?\)", guide.read_text()):
        if target and "://" not in target:
            assert (guide.parent / target).exists(), target
