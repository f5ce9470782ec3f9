"""The documents follow the code: every command, every folder, every file and link that they name."""

import re
from pathlib import Path

import click
import pytest

from hpo.cli.reference import reference
from hpo.cli.root import root

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def paths(group: click.Group = root, words: str = "hpo") -> list[str]:
    """The words of every command and group, `hpo` itself first."""
    context = click.Context(group)
    actual = [words]
    for name in group.list_commands(context):
        below = group.get_command(context, name)
        actual += paths(below, f"{words} {name}") if isinstance(below, click.Group) else [f"{words} {name}"]
    return actual


def test_the_reference_is_up_to_date() -> None:
    """docs/cli.md is what `make docs` would write now."""
    assert (ROOT / "docs" / "cli.md").read_text() == reference(), "run `make docs`"


def test_every_command_is_in_the_reference() -> None:
    """A heading each, with an example below it."""
    sections = re.split(r"^## (.+)$", (ROOT / "docs" / "cli.md").read_text(), flags=re.MULTILINE)[1:]
    headings, texts = sections[::2], sections[1::2]
    assert sorted(headings) == sorted(paths())
    for heading, text in zip(headings, texts, strict=True):
        assert heading in text.partition("Example")[2], heading


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_exist(document: Path) -> None:
    """Every line of an indented block, and every span of code, that begins with `hpo` begins with a command."""
    text = document.read_text()
    spans = re.findall(r"`(hpo [^`]+)`", text) + re.findall(r"^ {4}(?:\$ )?(hpo [^|#\n]+)", text, flags=re.MULTILINE)
    known = paths()
    for span in spans:
        words = [word for word in re.sub(r"--(db|data) \S+ ", "", span).split() if re.fullmatch(r"[a-z]+", word)]
        command = max((path for path in known if words[: len(path.split())] == path.split()), key=len)
        assert command != "hpo" or len(words) == 1, f"{document.name}: {span}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link is a file here, and every #heading is one."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        linked = document.parent / path if path else document
        assert linked.exists(), f"{document.name}: {target}"
        if heading:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


@pytest.mark.parametrize("name", ["README.md", "docs/architecture.md"])
def test_every_folder_of_the_house_is_named(name: str) -> None:
    """Whoever reads these finds each room of hpo/, and no room that is gone."""
    text = (ROOT / name).read_text()
    tree = re.search(r"^    hpo/\n((?:^      .*\n)+)", text, flags=re.MULTILINE)
    assert tree is not None
    named = re.findall(r"^      (\w+(?:/|\.py))", tree[1], flags=re.MULTILINE)
    folders = [f"{path.name}/" for path in (ROOT / "hpo").iterdir() if (path / "__init__.py").exists()]
    files = [path.name for path in (ROOT / "hpo").glob("*.py") if not path.name.startswith("__")]
    assert sorted(named) == sorted([*folders, *files])


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md"])
def test_files_in_documents_exist(name: str) -> None:
    """A path in code, like `storage/engine.py`, is a file of this project or of hpo/."""
    for span in re.findall(r"`([a-z0-9_./-]+\.(?:py|toml|txt|md|yml|yaml|css|js|html))`", (ROOT / name).read_text()):
        places = (ROOT, ROOT / "hpo", ROOT / "hpo/storage", ROOT / "hpo/training")
        assert any((place / span).exists() for place in places), f"{name}: {span}"


def test_the_glossary_is_sorted() -> None:
    """A word is found by its letter, and defined once."""
    words = re.findall(r"^\*\*(.+?)\*\*", (ROOT / "docs" / "glossary.md").read_text(), flags=re.MULTILINE)
    assert len(words) > 20
    assert words == sorted(set(words), key=str.lower)
