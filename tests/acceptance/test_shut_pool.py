"""The test pool cannot serve a search: the attacks, by the commands that people have."""

import json
from pathlib import Path
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


def test_a_search_from_a_candidate_that_was_tested_says_so(hpo: Hpo) -> None:
    """The attack: candidates tested as [paper] of files, so under the label that all studies have."""

    def file(name: str, dropout: float, trials: int) -> Path:
        path = hpo.study(**{**SMALL, "trials": trials}, name=name)
        path.write_text(path.read_text().replace("dropout = 0.15", f"dropout = {dropout}"))
        return path

    for dropout in (0.1, 0.2):
        hpo("evaluate", file(f"at-{dropout}", dropout, 0))
    hpo(*DRAIN)
    hpo("study", "create", "--file", file("chosen", 0.2, 2))
    hpo("study", "create", "--file", file("usual", 0.15, 2))
    hpo(*DRAIN)
    assert "that had been tested on the same images before: chosen. Their results" in cautions(hpo)


def test_more_rounds_are_the_next_look_or_said_to_be_undeclared(hpo: Hpo) -> None:
    """What a study declared is what it was created with; the ledger says which look an opening belonged to."""
    declared = hpo.study(**{**SMALL, "trials": 0}, name="declared")
    refused = hpo.refused("study", "create", "--file", declared, "--looks", "2,2", code=2)
    assert refused == "hpo: --looks: must be numbers of rounds, each above the one before, not [2, 2]"
    assert "not numbers separated by commas" in hpo.refused(
        "study", "create", "--file", declared, "--looks", "2;4", code=2
    )
    hpo("study", "create", "--file", declared, "--looks", "1,2")
    for rounds in (1, 2, 3):
        said = hpo("evaluate", "--study", "declared", "--label", "paper", "--rounds", str(rounds)).output
        beyond = "1 of them are beyond the rounds that the study was created with (1, 2)"
        assert (beyond in said) == (rounds == 3)
        hpo(*DRAIN)
    assert [(entry["round"], entry["look"]) for entry in hpo.json("ledger")] == [(0, 1), (1, 2), (2, 3)]
    assert "1, 2, 3" in hpo("ledger").stdout
    assert hpo.json("evaluate", "--study", "declared", "--label", "paper", "--rounds", "3")[0]["beyond"] == 1


def test_more_rounds_by_another_study_are_said_to_be_undeclared(hpo: Hpo) -> None:
    """The attack: a study of another name that declares more rounds after a look, be the first one deleted or not."""

    def measured(name: str, rounds: int) -> str:
        options = () if name == "first" else ("--study", name, "--rounds", str(rounds))
        said = "".join(hpo("evaluate", file, *options, *label).output for label in ((), ("--label", "paper")))
        hpo(*DRAIN)
        return said

    def pair() -> dict[str, Any]:
        hpo("report")
        report = json.loads((hpo.folder / "report" / "report.json").read_text())
        (pair,) = report["pairs"]
        beyond = pair["undeclared"]
        (line,) = [line for line in report["cautions"] if "nobody had declared" in line]
        assert (
            f"any of the looks (at 2 and {beyond['rounds']} rounds) that is p = {beyond['p_over_looks']:.2g}." in line
        )
        return {"counted": pair["rounds"], "beyond": beyond["added"]}

    file = hpo.study(**{**SMALL, "trials": 0, "rounds": 2}, name="first")
    with file.open("a") as text:
        text.write("[tuned]\nlearning_rate = 5e-3\nweight_decay = 2e-5\ndropout = 0.1\n")
    assert "beyond" not in measured("first", 2)
    line = "2 of them are beyond the rounds that had been declared when study first tested this configuration first (2)"
    assert measured("second", 4).count(line) == 2
    assert pair() == {"counted": [0, 1], "beyond": 2}
    hpo("study", "delete", "first", "--yes")
    hpo("study", "delete", "second", "--yes")
    (asked,) = hpo.json("evaluate", file, "--study", "third", "--rounds", "3")
    assert (asked["looks"], asked["first_tested_by"], asked["beyond"]) == ([2], "first", 1)
    measured("third", 3)
    assert pair() == {"counted": [0, 1], "beyond": 1}


def test_a_plan_needs_a_spread(hpo: Hpo) -> None:
    """Nothing is measured before two configurations have rounds in common."""
    hpo.create(**SMALL)
    assert "give --spread" in hpo.refused("study", "plan", "--difference", "0.5", code=2)
    needs = hpo.json("study", "plan", "--difference", "0.5", "--spread", "0.9", "--search-spread", "0.6")
    assert [(need["unit"], need["number"]) for need in needs] == [("rounds", 37)] * 2 + [("repeats", 19)] * 2
    assert "0.5" in hpo.refused("study", "plan", "--difference", "0.5", "--spread", "1", "--power", "0.1", code=2)
    looked = hpo.json("study", "plan", "--difference", "0.5", "--spread", "0.9", "--looks", "3")
    assert looked[0]["looks"]["declared"] == [14, 28, 41]
    assert "two models" in hpo("study", "plan", "--difference", "0.5", "--spread", "0.9", "--looks", "3").stdout
