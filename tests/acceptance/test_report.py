"""The report's files over databases in every state, and the page as a browser shows it."""

import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from hpo.analysis.dependence import interactions
from hpo.digits.answers import pair_draws
from hpo.digits.bundled import BUNDLED_DIGEST
from hpo.digits.load import load
from hpo.report.write import ReportNotWritable, write_report
from hpo.results import queries
from hpo.storage import migrate
from hpo.storage.engine import open_engine
from hpo.storage.slots import Slot
from hpo.study.spec import MODELS, StudySpec
from tests.support.browser import browse, console, needs_chromium
from tests.support.handmade import make, packed_answers, small_spec

TABLES = ("comparison", "pairs", "repeats", "rounds", "trials", "importance", "interactions", "confusion", "models")


class _Reader(HTMLParser):
    """The page's visible text, its figures and whatever it would load from elsewhere."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.plots: list[dict[str, str | None]] = []
        self.outside: list[str] = []
        self.images: list[str] = []
        self._hidden = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self._hidden += tag in ("script", "style")
        if tag == "div" and "plot" in (attributes.get("class") or "").split():
            self.plots.append(attributes)
        self.images += [attributes["src"] or ""] if tag == "img" else []
        self.outside += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith(("#", "data:"))]

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden and data.strip():
            self.words.append(data.strip())

    @property
    def text(self) -> str:
        return "\n".join(self.words)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Engine, Path]:
    """A finished comparison of three models with something of everything in it, and its report."""
    folder = tmp_path_factory.mktemp("whole")
    engine = open_engine(f"sqlite:///{folder / 'hpo.db'}")
    migrate.create_or_check(engine)

    def state(slot: Slot) -> str:
        if slot.kind != "search":
            return "complete"
        return "diverged" if slot.idx == 5 else "pruned" if slot.idx in (8, 11) else "complete"

    draw = pair_draws(load().pool_b_labels().astype(np.int64))
    for model in MODELS:
        spec = small_spec(model, trials=12, epochs=4, rounds=11)
        make(
            engine,
            spec,
            data_digest=BUNDLED_DIGEST,
            outputs=packed_answers(draw, spec.protocol.test_pairs),
            paper_is_best=model == "simple",
            state=state,
            fails=lambda slot: slot.kind == "search" and slot.idx == 9 and slot.model == "ws",
        )
    write_report(engine, folder / "report")
    return engine, folder / "report"


def test_the_three_forms_agree(whole: tuple[Engine, Path]) -> None:
    engine, out = whole
    report = json.loads((out / "report.json").read_text())
    page = _Reader((out / "report.html").read_text())
    assert len(report["headlines"]) == 6  # three pairs of models, two tuned, one where the paper's won
    for line in report["headlines"]:
        assert line in page.text
    with open(out / "comparison.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["model"], r["configuration"]) for r in rows] == [
        (model, label) for model in MODELS for label in ("published", "paper", "tuned")
    ]
    for one in queries.all_results(engine):
        for final in one.final:
            (row,) = [r for r in rows if (r["study"], r["configuration"]) == (one.name, final.label)]
            assert float(row["test_mean"]) == final.test_mean
            assert f"{100 * (final.test_mean or 0):.1f} ± {100 * (final.test_std or 0):.1f}" in page.text
    with open(out / "rounds.csv", newline="") as file:
        rounds = list(csv.DictReader(file))
    assert len(rounds) == 11 * 5
    with open(out / "trials.csv", newline="") as file:
        trials = list(csv.DictReader(file))
    assert sum(r["phase"] == "search" for r in trials) == 36
    for one in report["studies"]:
        trainings = [r for r in trials + rounds if r["study"] == one["name"] and r["device_seconds"]]
        spent = [phase["device_seconds"]["cpu"] for phase in one["tuning"]["spend"]]
        assert len(spent) == 3
        assert sum(spent) == sum(float(r["device_seconds"]) for r in trainings) == 3.125 * len(trainings) > 0
        assert f"{sum(spent) / 3600:.2f}" in page.text
    assert "CPU hours" in page.text


def test_a_report_made_again_is_the_same(whole: tuple[Engine, Path], tmp_path: Path) -> None:
    """Byte for byte, but for the time and the latencies: these stand in one section, and in no CSV file."""
    engine, out = whole
    write_report(engine, tmp_path / "again")
    again = {path.name: path for path in (tmp_path / "again").iterdir()}
    assert again.keys() == {path.name for path in out.iterdir()}
    differing = {name for name, path in again.items() if path.read_bytes() != (out / name).read_bytes()}
    assert differing <= {"report.html", "report.json"}
    first, second = (_without_latencies(folder) for folder in (out, tmp_path / "again"))
    assert first == second
    assert "latency of one pair" not in first[0]


def _without_latencies(folder: Path) -> tuple[str, Any]:
    """The page and the JSON without when they were made, and without what was measured meanwhile."""
    page, tree = (folder / "report.html").read_text(), json.loads((folder / "report.json").read_text())
    page = re.sub(r"<table\b(?:(?!</table>).)*latency of one pair.*?</table>", "", page, flags=re.DOTALL)
    made = f"Made {tree.pop('made_at')}"  # studies created in the same minute have it in their record too
    del tree["latency"]
    assert made in page
    return page.replace(made, ""), tree


def test_new_images_and_hard_pairs(whole: tuple[Engine, Path]) -> None:
    """From the stored answers: intervals for new images, and that close digits are the hard ones, as made up."""
    _, out = whole
    report = json.loads((out / "report.json").read_text())
    assert len(report["pairs"]) == 8
    for pair in report["pairs"]:
        assert pair["items"]["low"] <= pair["difference"]["mean"] <= pair["items"]["high"]
    page = _Reader((out / "report.html").read_text()).text
    assert "Where the models go wrong" in page
    assert "conditional on these pools" in page
    assert "are left out here" not in page


def test_naming_and_the_hardest_pairs(whole: tuple[Engine, Path]) -> None:
    """ws-aux alone is asked which digits it named; made up as all right, so comparing itself fails every time."""
    _, out = whole
    report = json.loads((out / "report.json").read_text())
    html = _Reader((out / "report.html").read_text())
    (naming,) = report["naming"]
    assert (naming["model"], naming["named"], naming["wrong_though_named"]) == (
        "ws-aux",
        11 * 1000,
        naming["pairs"] - naming["right"],
    )
    for line in naming["sentences"]:
        assert line in html.text
    with open(out / "confusion.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["digit"], r["named"]) for r in rows] == [(i, j) for i in "0123456789" for j in "0123456789"]
    assert sum(int(r["images"]) for r in rows if r["digit"] == r["named"]) == 2 * 11 * 1000
    (gallery,) = report["hardest_pairs"]
    assert len(gallery["pairs"]) == len(html.images) == 24
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in html.images)
    assert gallery["still_tuned"] == []
    for pair in gallery["pairs"]:  # simple's paper configuration won: its rounds count once
        assert [one["trainings"] for one in pair["counts"]] == [1, 2, 2]
    assert "pictures" not in gallery


def test_what_the_models_cost(whole: tuple[Engine, Path]) -> None:
    """Parameters and multiply-adds in all forms; the latency, which no two reports share, is not in the CSV files."""
    _, out = whole
    report = json.loads((out / "report.json").read_text())
    page = _Reader((out / "report.html").read_text()).text
    with open(out / "models.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"model": m, "parameters": str(p), "multiply_adds_a_pair": str(a)}
        for m, p, a in (("simple", 58380, 363808), ("ws", 56470, 537336), ("ws-aux", 56470, 537336))
    ]
    assert [one["multiply_adds"] for one in report["models"]] == [363808, 537336, 537336]
    assert "537,336" in page
    assert report["latency"]["device"] in page
    assert len(report["latency"]["measured"]) == 6


def test_every_opening_of_the_test_pool_is_listed(whole: tuple[Engine, Path]) -> None:
    """With its slot, study, attempt, worker and time, folded on the screen."""
    engine, out = whole
    page = (out / "report.html").read_text()
    (table,) = re.findall(r"<details><summary>Every opening of pool B.*?</details>", page, re.DOTALL)
    rows = [re.findall(r"<td.*?>(.*?)</td>", row) for row in table.split("<tr")[2:]]
    results = queries.all_results(engine)
    assert len(rows) == 11 * 5
    assert "Every opening of pool B (55)" in table
    labels = {str(run.slot_id): f"{run.label}, round {run.round}" for result in results for run in result.final_runs}
    for slot, study, attempt, worker, _ in rows:
        number, _, label = slot.partition(": ")
        (result,) = [result for result in results if result.name == study]
        (opening,) = [opening for opening in result.openings if str(opening.slot_id) == number]
        assert (attempt, worker, label) == (str(opening.attempt), opening.worker, labels[number])
    times = [row[-1] for row in rows]
    assert times == sorted(times)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", times[0])


def test_the_page_stands_alone(whole: tuple[Engine, Path]) -> None:
    _, out = whole
    page = _Reader((out / "report.html").read_text())
    assert page.outside == []
    assert (out / "report.html").stat().st_size < 8_000_000
    assert "Small budget" in page.text
    assert "ws: search: 1 of 12 trials failed" in page.text
    assert "RuntimeError: out of <memory>" in page.text  # as text, not as an element
    assert "0123456789abcdef" in page.text
    assert sorted(p.name for p in out.iterdir()) == sorted(
        ["report.html", "report.json", *(f"{name}.csv" for name in TABLES)]
    )


def test_one_search_trial_never_stands_beside_more_epochs_unsaid(whole: tuple[Engine, Path]) -> None:
    """The published row names its 40 epochs, ours their 4, in the page's table and its figure."""
    _, out = whole
    report = json.loads((out / "report.json").read_text())
    assert {(row["label"] == "published", row["epochs"]) for row in report["table"]} == {(True, 40), (False, 4)}
    page = (out / "report.html").read_text()
    (spec,) = re.findall(r'id="rounds-data">(.*?)</script>', page)
    ticks = json.loads(spec)["layout"]["xaxis"]["ticktext"]
    assert [tick.split("<br>")[-1] for tick in ticks] == ["40 epochs", "4 epochs", "4 epochs"] * 3


@needs_chromium
def test_a_browser_draws_every_figure(whole: tuple[Engine, Path]) -> None:
    """In headless Chromium: no message on the console, every figure drawn with all its panels."""
    _, out = whole
    dom, log = browse((out / "report.html").as_uri())
    page = _Reader(dom)
    # rounds, errors, confusion, history, budget, curves, timeline, and two for each of three searches
    assert len(page.plots) == 13
    assert [plot["id"] for plot in page.plots if plot.get("data-drawn") != "yes"] == []
    assert dom.count('class="main-svg"') >= len(page.plots)
    assert console(log) == []


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of one search with enough random trials to ask whether hyperparameters depend on each other."""
    folder = tmp_path_factory.mktemp("searched")
    engine = open_engine(f"sqlite:///{folder / 'hpo.db'}")
    migrate.create_or_check(engine)
    tree = small_spec("ws-aux", trials=30, rounds=2).model_dump()
    tree["sampler"]["startup_trials"] = 27
    make(engine, StudySpec.model_validate(tree))
    write_report(engine, folder / "report")
    return folder / "report"


def test_dependence_stands_in_all_forms(searched: Path) -> None:
    (study,) = json.loads((searched / "report.json").read_text())["studies"]
    dependence, page = study["dependence"], _Reader((searched / "report.html").read_text()).text
    assert "Do the hyperparameters depend on each other?" in page
    for line in dependence["sentences"]:
        assert line in page
    assert any("common scale of the loss weights is redundant" in line for line in dependence["sentences"])
    with open(searched / "interactions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["h"]) for row in rows] == [pair["h"] for pair in dependence["answer"]["pairs"]]
    with open(searched / "importance.csv", newline="") as file:
        names = [row["hyperparameter"] for row in csv.DictReader(file)]
    assert names == ["learning_rate", "relative_decay", "dropout", "weight_ratio"]
    assert (
        dependence["answer"]["coordinate_search"]["reference"]["value"]
        <= dependence["answer"]["coordinate_search"]["joint"]["value"]
    )


@needs_chromium
def test_a_browser_draws_the_dependence(searched: Path) -> None:
    dom, log = browse((searched / "report.html").as_uri())
    plots = {plot["id"]: plot.get("data-drawn") for plot in _Reader(dom).plots}
    assert {plots[name] for name in ("importance", "effects-0", "interactions", "contours")} == {"yes"}
    assert console(log) == []


@needs_chromium
def test_the_browser_test_can_fail(tmp_path: Path) -> None:
    """An error in the page's script reaches the log that the test above reads."""
    path = tmp_path / "bad.html"
    path.write_text("<!DOCTYPE html><div class=plot id=x></div><script>nothing.here()</script>")
    dom, log = browse(path.as_uri())
    assert _Reader(dom).plots == [{"class": "plot", "id": "x"}]
    assert any("nothing is not defined" in line for line in console(log))


# --- Databases that are not finished ----------------------------------------------------------------------


def _report(engine: Engine, out: Path) -> tuple[dict[str, Any], str]:
    files = write_report(engine, out)
    return json.loads(files.json.read_text()), _Reader(files.html.read_text()).text


def test_an_empty_database(sqlite_engine: Engine, tmp_path: Path) -> None:
    report, text = _report(sqlite_engine, tmp_path / "a" / "b")
    assert (report["studies"], report["table"], report["headlines"]) == ([], [], [])
    assert "There are no studies in this database yet." in text
    assert (tmp_path / "a" / "b" / "report.html").stat().st_size < 20_000  # no figure: no plotly


def test_images_that_are_not_at_hand(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Answers on images that nobody gives: the report says so and leaves out what needs them."""
    spec = small_spec("ws-aux", trials=3, rounds=2)
    make(sqlite_engine, spec, outputs=lambda slot, value: bytes(spec.protocol.test_pairs))
    report, text = _report(sqlite_engine, tmp_path)
    assert (report["naming"], report["hardest_pairs"]) == ([], [])
    assert "Left out here: ws-aux. Their images are not at hand" in text


def test_no_test_image_while_a_study_is_tuned(sqlite_engine: Engine, tmp_path: Path) -> None:
    spec = small_spec("ws", trials=3, rounds=2)
    pack = packed_answers(pair_draws(load().pool_b_labels().astype(np.int64)), spec.protocol.test_pairs)
    make(sqlite_engine, spec, data_digest=BUNDLED_DIGEST, outputs=pack)
    other = make(sqlite_engine, small_spec("simple", trials=3, rounds=2), data_digest=BUNDLED_DIGEST, limit=2)
    report, text = _report(sqlite_engine, tmp_path)
    assert report["hardest_pairs"][0]["still_tuned"] == ["simple"]
    assert "the test pool stays sealed as long as a study is being tuned on these images (simple)." in text
    assert "<img" not in (tmp_path / "report.html").read_text()
    other.work()
    report, _ = _report(sqlite_engine, tmp_path)
    assert report["hardest_pairs"][0]["pairs"]
    assert "<img" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("limit", [0, 1, 5, 8, 12, 15, 19])
def test_one_model_half_way(limit: int, sqlite_engine: Engine, tmp_path: Path) -> None:
    """At every stage of one study (7 search, 9 confirm, 4 final slots) there is a report that says what lacks."""
    make(sqlite_engine, small_spec("ws-aux", trials=7, rounds=2), limit=limit)
    report, text = _report(sqlite_engine, tmp_path / "out")
    (study,) = report["studies"]
    assert study["missing"]
    for line in study["missing"]:
        assert f"ws-aux: {line}" in text
    assert len(report["table"]) == 1 + len(study["final"])


def _fails_in(*kinds: str) -> Callable[[Slot], bool]:
    return lambda slot: slot.kind in kinds


@pytest.mark.parametrize("kinds", [("search",), ("confirm",), ("final",)])
def test_a_phase_that_failed_altogether(kinds: tuple[str, ...], sqlite_engine: Engine, tmp_path: Path) -> None:
    make(sqlite_engine, small_spec("ws", trials=4, rounds=2), fails=_fails_in(*kinds))
    report, text = _report(sqlite_engine, tmp_path)
    assert "failed" in "\n".join(report["studies"][0]["missing"])
    assert f"{kinds[0]}: RuntimeError: out of <memory>" in text


def test_everything_diverged(sqlite_engine: Engine, tmp_path: Path) -> None:
    make(sqlite_engine, small_spec("ws", trials=4, rounds=2), state=lambda slot: "diverged")
    report, text = _report(sqlite_engine, tmp_path)
    (study,) = report["studies"]
    assert study["best"] is None
    assert [one["test_mean"] for one in study["final"]] == [0.5, 0.5]
    assert [one["train_mean"] for one in study["final"]] == [None, None]
    assert "2 diverged, counted as 50.0%" in text


def test_diverged_final_rounds_have_no_interval_for_new_images(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Which would be over other rounds than its row; the page, JSON and CSV say why."""
    spec = small_spec("ws", trials=3, rounds=3)
    pack = packed_answers(pair_draws(load().pool_b_labels().astype(np.int64)), spec.protocol.test_pairs)
    make(
        sqlite_engine,
        spec,
        data_digest=BUNDLED_DIGEST,
        outputs=lambda slot, value: b"" if value == 0.5 else pack(slot, value),
        state=lambda slot: "diverged" if (slot.label, slot.round) == ("paper", 2) else "complete",
    )
    report, text = _report(sqlite_engine, tmp_path)
    (pair,) = report["pairs"]
    assert (len(pair["rounds"]), pair["items"]) == (3, None)
    assert f"ws tuned and ws paper: {pair['note']}." in text
    with open(tmp_path / "pairs.csv", newline="") as file:
        assert [row["note"] for row in csv.DictReader(file)] == [pair["note"]]


@pytest.mark.parametrize(
    "weights", [{"aux_weight": 0.0}, {"main_weight": 0.0}, {"aux_weight": 0.0, "main_weight": 0.0}]
)
def test_a_paper_without_one_of_the_losses(
    weights: dict[str, float], sqlite_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ratio of weights is infinite, 0 or nothing at all: page, figures and JSON stand it."""
    for name, repeats in (("CV_REPEATS", 2), ("CHECK_REPEATS", 2), ("PED_PERMUTATIONS", 20), ("NULL_REPEATS", 9)):
        monkeypatch.setattr(interactions, name, repeats)
    tree = small_spec("ws-aux", trials=24, rounds=2).model_dump()
    tree["sampler"]["startup_trials"] = 24
    for name, weight in weights.items():
        tree["space"][name].update(low=0.0, log=False)
        tree["paper"][name] = weight
    make(sqlite_engine, StudySpec.model_validate(tree))
    report, text = _report(sqlite_engine, tmp_path)
    answer = report["studies"][0]["dependence"]["answer"]
    ratio = answer["coordinates"][3]
    assert (ratio["name"], ratio["reference"]) == ("weight_ratio", 0.0 if "aux_weight" not in weights else None)
    assert answer["coordinate_search"]["moved"]
    assert "the reference's values (moved into the range)" in text


def test_an_evaluation_without_a_search(sqlite_engine: Engine, tmp_path: Path) -> None:
    """Two settings in one database: measured, and not compared with each other."""
    from hpo.storage.engine import begin_write
    from hpo.study import phases

    for model, epochs in (("ws", 40), ("simple", 12)):
        spec = small_spec(model, trials=0, epochs=epochs, rounds=3)
        maker = make(sqlite_engine, spec)
        with begin_write(sqlite_engine) as connection:
            phases.add_final(connection, maker.row, spec, "paper", spec.paper, 3)
        maker.work()
    report, text = _report(sqlite_engine, tmp_path)
    assert report["pairs"] == []
    assert "Setting 2 is not compared with setting 1: they differ in epochs (40 and 12)." in text
    assert "Nothing was searched: only the paper's or a given configuration is measured." in text
    assert [row["epochs"] for row in report["table"]] == [40, 12, 40, 40]


def test_repeats_stand_in_all_forms(sqlite_engine: Engine, tmp_path: Path) -> None:
    spec = small_spec("ws", trials=6, rounds=3)
    for i in (1, 2):
        make(sqlite_engine, spec.with_options(name=f"ws-{i}", seed=i), repeat_group="ws")
    report, text = _report(sqlite_engine, tmp_path)
    (group,) = report["repeats"]["groups"]
    assert [one["study"] for one in group["repeats"]] == ["ws-1", "ws-2"]
    assert report["headlines"][0].startswith("Over 2 repeats of the search, ")
    assert "Would another search give the same result?" in text
    assert "ws: results of its 2 searches" in text
    assert "Only one search was made" not in text
    with open(tmp_path / "repeats.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["test_mean"]) for row in rows] == [one["test"] for one in group["repeats"]]


def test_a_folder_that_cannot_be_written(sqlite_engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportNotWritable, match=r"cannot be written to .*file.*; name another folder with --out$"):
        write_report(sqlite_engine, tmp_path / "file")


def test_a_second_report_replaces_the_first(sqlite_engine: Engine, tmp_path: Path) -> None:
    maker = make(sqlite_engine, small_spec("ws", trials=3, rounds=1), limit=1)
    before, _ = _report(sqlite_engine, tmp_path)
    maker.work()
    after, _ = _report(sqlite_engine, tmp_path)
    assert before["studies"][0]["phase"] == "search"
    assert after["studies"][0]["phase"] == "done"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
