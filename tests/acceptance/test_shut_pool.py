"""The test pool cannot serve a search: the attacks, by the commands that people have."""

import json
from typing import Any

from tests.support.commandline import DRAIN, Hpo

SMALL = {"trials": 2, "epochs": 1, "training_pairs": 5, "confirm_rounds": 1, "rounds": 1}


def listed(hpo: Hpo) -> dict[str, Any]:
    return {study["name"]: study for study in hpo.json("study", "list")}


def cautions(hpo: Hpo) -> str:
    hpo("report")
    return "\n".join(json.loads((hpo.folder / "report" / "report.json").read_text())["cautions"])


def test_final_rounds_wait_until_the_last_search_is_over(hpo: Hpo) -> None:
    """A worker for one study leaves its test to later, and says for whom; one for all needs no hand."""
    hpo.create(**SMALL)
    hpo.create(**SMALL, model="simple", name="other")
    said = hpo(*DRAIN, "--study", "ws", code=1).output
    assert "not all is done: study ws waits for other, whose searches on the same data could profit" in said
    assert (listed(hpo)["ws"]["phase"], listed(hpo)["ws"]["waits_for"]) == ("final", ["other"])
    assert "final (waits for" in " ".join(hpo("study", "list").stdout.split())
    assert hpo.json("ledger") == []
    hpo(*DRAIN)
    assert {study["phase"] for study in listed(hpo).values()} == {"done"}
    assert [entry["early"] for entry in hpo.json("ledger")] == [False] * len(hpo.json("ledger"))
    assert "Pool B was opened" not in cautions(hpo)


def test_nothing_is_evaluated_while_somebody_searches(hpo: Hpo) -> None:
    """Six labels while the search has no trial yet, as the attack was: each is refused, and nothing is created."""
    hpo.create(**SMALL)
    file = hpo.study(**SMALL, name="looked-at")
    for number in range(6):
        line = hpo.refused("evaluate", file, "--study", f"look-{number}", "--label", f"look-{number}")
        assert line.startswith("hpo: pool B stays shut while searches on the same data go on (ws), ")
    assert set(listed(hpo)) == {"ws"}
    assert "pool B stays shut" in hpo.refused("evaluate", "--study", "ws", "--label", "paper")
    hpo("study", "pause", "ws")
    hpo("evaluate", file)
    hpo(*DRAIN)
    hpo("study", "resume", "ws")
    assert "pool B stays shut" in hpo.refused("evaluate", file, "--rounds", "2")


def test_who_opens_it_early_is_on_record_and_on_top_of_the_report(hpo: Hpo) -> None:
    """A look, then a search, and one that begins with what was looked at."""
    hpo.create(**SMALL)
    hpo("evaluate", hpo.study(**SMALL, name="looked-at"), "--label", "mine", "--open-early")
    hpo(*DRAIN, "--study", "looked-at")
    assert [(entry["study"], entry["label"], entry["early"]) for entry in hpo.json("ledger")] == [
        ("looked-at", "mine", True)
    ]
    hpo(*DRAIN)
    assert "opened (first by looked-at) before these searches had ended" in cautions(hpo)
    assert "ws (2 of 2 trials)" in cautions(hpo)
    hpo("study", "delete", "looked-at", "--yes")
    assert "ws (2 of 2 trials)" in cautions(hpo)
    first = hpo.json("ledger")[0]
    assert (first["study"], first["deleted"]) == ("looked-at", True)
