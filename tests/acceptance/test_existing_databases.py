"""Databases that earlier versions have made: the records open and say what they said, a study in the middle goes on."""

import gzip
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from sqlalchemy import text

from hpo.storage import slots, studies
from hpo.storage.engine import open_engine
from hpo.storage.slots import Slot
from tests.support.commandline import Hpo, train
from tests.support.copied import copy_to_postgres
from tests.support.exact import check_exact

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
PHASES = ("search", "confirm", "final")
SCHEMAS = sorted({path.name.partition("-")[0] for path in DATA.glob("*.db.gz")})

# BENCHMARKS.md: accuracy in percent on pool B over 20 rounds, mean ± standard deviation
PAPER = {("simple", "paper"): "83.7 ± 1.5", ("ws", "paper"): "87.2 ± 1.2", ("ws-aux", "paper"): "97.9 ± 0.5"}
TUNED = {
    ("simple", "paper"): "82.7 ± 1.5",
    ("simple", "tuned"): "85.0 ± 1.3",
    ("ws", "paper"): "85.8 ± 1.1",
    ("ws", "tuned"): "87.8 ± 1.4",
    ("ws-aux", "paper"): "97.7 ± 0.5",
    ("ws-aux", "tuned"): "97.9 ± 0.5",
}
WINNERS = (58, 44, 39)  # trials
DEFAULT = {  # README.md
    ("simple", "paper"): "83.9 ± 2.1",
    ("simple", "tuned"): "86.5 ± 1.7",
    ("ws", "paper"): "87.3 ± 1.3",
    ("ws", "tuned"): "90.7 ± 1.7",
    ("ws-aux", "paper"): "97.9 ± 0.4",
    ("ws-aux", "tuned"): "98.1 ± 0.3",
}


def unpack(hpo: Hpo, packed: Path) -> None:
    """Put a database in the place of the one that `hpo` is on."""
    Path(hpo.url.removeprefix("sqlite:///")).write_bytes(gzip.decompress(packed.read_bytes()))


def table_of(hpo: Hpo, record: str) -> dict[tuple[str, str], str]:
    """The test accuracies in the report of a record, by model and configuration."""
    unpack(hpo, ROOT / "bench" / "records" / f"{record}.db.gz")
    hpo("db", "upgrade")
    rows = [row for row in hpo.json("report", "--out", "report")["table"] if row["study"]]
    assert {row["test"]["n"] for row in rows} == {20}
    return {
        (row["model"], row["label"]): f"{100 * row['test']['mean']:.1f} ± {100 * row['test']['std']:.1f}"
        for row in rows
    }


def test_the_record_of_the_papers_configuration(hpo: Hpo) -> None:
    """Nothing was searched; its table is that of then."""
    assert table_of(hpo, "paper-40-epochs") == PAPER
    listed = hpo.json("study", "list")
    assert [(study["phase"], study["trials"]["total"], study["tuned"]) for study in listed] == [("done", 0, None)] * 3


def test_the_record_of_a_whole_study(hpo: Hpo) -> None:
    """All trials are there, the winners and the table are those of then."""
    assert table_of(hpo, "12-epoch") == TUNED
    listed = hpo.json("study", "list")
    assert [study["phase"] for study in listed] == ["done"] * 3
    assert [study["trials"]["complete"] + study["trials"]["pruned"] for study in listed] == [60] * 3
    assert tuple(study["tuned"]["source"] for study in listed) == WINNERS


def test_the_record_of_the_default_study(hpo: Hpo) -> None:
    """Nothing of pool B was opened before the last search and the last confirm round had ended."""
    assert table_of(hpo, "40-epoch") == DEFAULT
    listed = hpo.json("study", "list")
    assert [study["trials"]["complete"] + study["trials"]["pruned"] for study in listed] == [100] * 3
    engine = open_engine(hpo.url)
    with engine.connect() as connection:
        tuned = connection.execute(text("SELECT max(finished_at) FROM hpo_slots WHERE kind <> 'final'")).scalar_one()
        opened = connection.execute(text("SELECT min(opened_at) FROM hpo_openings")).scalar_one()
    engine.dispose()
    assert tuned < opened


def cases(*quick: tuple[str, str]) -> list[ParameterSet]:
    """Each schema and phase that is in tests/data; all but the quick ones are long."""
    return [
        pytest.param(schema, phase, marks=() if (schema, phase) in quick else pytest.mark.long)
        for schema in SCHEMAS
        for phase in PHASES
    ]


@pytest.mark.parametrize(("schema", "phase"), cases(*((schema, phase) for schema in SCHEMAS for phase in PHASES)))
def test_a_study_in_the_middle_goes_on(hpo: Hpo, schema: str, phase: str) -> None:
    """After `hpo db upgrade` today's worker ends what an earlier one, killed in that phase, began (tests/data)."""
    unpack(hpo, DATA / f"{schema}-{phase}.db.gz")
    check_it_goes_on(hpo, phase)


@pytest.mark.parametrize(("schema", "phase"), cases((SCHEMAS[-1], "confirm")))
def test_so_does_one_on_postgresql(hpo_on_postgres: Hpo, schema: str, phase: str) -> None:
    """The same rows, in tables as that version made them there."""
    engine = open_engine(hpo_on_postgres.url)
    copy_to_postgres(DATA / f"{schema}-{phase}.db.gz", schema, engine)
    engine.dispose()
    check_it_goes_on(hpo_on_postgres, phase)


def check_it_goes_on(hpo: Hpo, phase: str) -> None:
    """Upgrade, and train what is left: all is there once, and what was done stays as it is."""
    hpo("db", "upgrade")
    shown = hpo.show()
    assert shown["phase"] == phase
    ended = done_slots(hpo.url)
    train(hpo)
    actual = check_exact(hpo.url, "ws", search=4, confirm=4, rounds=2)
    after = {slot.id: slot for kind in actual.values() for slot in kind}
    for slot_id, slot in ended.items():
        assert (after[slot_id].outcome, after[slot_id].params) == (slot.outcome, slot.params), "done is done"
    attempts = {slot.attempt for slot in after.values()}
    assert attempts == ({1, 2} if phase == "final" else {1}), "only the final's was killed in the middle of a round"
    assert hpo.json("report", "--out", "report")["table"]


def done_slots(url: str) -> dict[int, Slot]:
    """What the earlier worker had finished, by id; one result is not yet told to Optuna."""
    engine = open_engine(url)
    try:
        actual = slots.list_slots(engine, studies.get_study(engine, "ws").id)
        return {slot.id: slot for slot in actual if slot.state == "done"}
    finally:
        engine.dispose()
