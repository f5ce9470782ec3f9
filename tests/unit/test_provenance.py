"""The record of a study: what went wrong, and the commands that repeat it."""

import shlex
from dataclasses import replace

import click
import pytest

from hpo.analysis.provenance import provenance_of, reason
from hpo.cli.root import root
from hpo.digits.bundled import BUNDLED_DIGEST
from tests.support.results import around, finals, run, study


def test_provenance_counts_what_went_wrong() -> None:
    runs = [
        run("search", 0, attempt=2, expiries=1),
        run("search", 1, state="failed", failures=2, error="Traceback\n  x\nValueError: no\n", value=None),
        run("search", 2, state="diverged", spec_digest="other"),
    ]
    provenance = provenance_of(study("ws", runs))
    assert provenance.failures == (("search: ValueError: no", 1),)
    assert (
        provenance.repeated,
        provenance.expiries,
        provenance.exceptions,
        provenance.diverged,
        provenance.foreign,
    ) == (1, 1, 2, 1, 1)
    assert provenance.versions == (("torch 2.13.0", 2),)
    assert reason(None) == "no reason stored"


def test_the_commands_name_what_they_need() -> None:
    """Images that are not bundled, trials that were added, a line for each configuration; nothing where nothing is."""
    runs = [*(run("search", i) for i in range(102)), *finals("paper", around(0.9)), *finals("x", around(0.9)[:3])]
    given, bundled = (
        provenance_of(study("ws", runs, data_digest=d), [BUNDLED_DIGEST]).commands for d in ("d", BUNDLED_DIGEST)
    )
    there = "hpo --db sqlite:///again.db --data FOLDER"
    assert given[1][0] == "a study like it elsewhere"  # the search is adaptive
    assert given[1][1] == (
        f"{there} study create --file ws.toml && {there} study extend --trials 2 ws && {there} worker --drain"
    )
    assert [line.count("--data FOLDER") for _, line in given] == [0, 3, 2, 2, 0]
    assert "ws-x.toml --label x --rounds 3" in given[3][1]
    assert not any("--data" in line for _, line in bundled)
    assert not any("extend" in line for _, line in provenance_of(study("ws", runs[:100])).commands)


def parsed(words: list[str]) -> dict[str, object]:
    """The parameters of a command as it would be called; click's error where it would not."""
    command: click.Command = root
    context = command.make_context("hpo", list(words))
    while isinstance(command, click.Group):
        name, below, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert below is not None
        command, context = below, below.make_context(name, rest, parent=context)
    return context.params


@pytest.mark.parametrize("name", ["ws", "ws-1.b_c", "-x", "--help", "-", ".hidden", "--", "a b;c'd"])
def test_the_commands_can_be_typed(name: str) -> None:
    """Whatever an older study is called, a shell and hpo take each word for what it is."""
    runs = [*(run("search", i) for i in range(102)), *finals("paper", around(0.9))]
    lines = [line for _, line in provenance_of(replace(study("ws", runs), name=name)).commands]
    words = [shlex.split(command) for line in lines for command in line.split(" && ")]
    written = [command[command.index(">") + 1] for command in words if ">" in command]
    called = [parsed(command[1 : command.index(">") if ">" in command else None]) for command in words]
    named = [parameters["name"] for parameters in called if parameters.get("name") is not None]
    assert named == [name] * 4, "exported, extended, exported with a label, shown"
    files = [str(parameters[key]) for parameters in called for key in ("path", "config") if parameters.get(key)]
    assert [file.removeprefix("./") for file in written] == [f"{name}.toml", f"{name}-paper.toml"]
    assert [file.removeprefix("./") for file in files] == [f"{name}.toml", f"{name}-paper.toml"]
