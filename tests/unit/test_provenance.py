"""The record of a study: what went wrong, and the commands that repeat it."""

from hpo.analysis.provenance import last_line, provenance_of
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
    assert last_line(None) == "no reason stored"


def test_the_commands_name_what_they_need() -> None:
    """Images that are not bundled, trials that were added, a line for each configuration; nothing where nothing is."""
    runs = [*(run("search", i) for i in range(102)), *finals("paper", around(0.9)), *finals("x", around(0.9)[:3])]
    given, bundled = (provenance_of(study("ws", runs, data_digest=d)).commands for d in ("d", BUNDLED_DIGEST))
    there = "hpo --db sqlite:///again.db --data FOLDER"
    assert given[1][0] == "a study like it elsewhere"  # the search is adaptive
    assert given[1][1] == (
        f"{there} study create --file ws.toml && {there} study extend ws --trials 2 && {there} worker --drain"
    )
    assert [line.count("--data FOLDER") for _, line in given] == [0, 3, 2, 2, 0]
    assert "ws-x.toml --label x --rounds 3" in given[3][1]
    assert not any("--data" in line for _, line in bundled)
    assert not any("extend" in line for _, line in provenance_of(study("ws", runs[:100])).commands)
