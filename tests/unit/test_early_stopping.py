"""What a training holds back of its own items to stop by."""

from typing import Any

import numpy as np
import pytest

from hpo.errors import ExperimentError
from hpo.experiment.items import Draw, Items
from hpo.experiment.rows import rows
from hpo.experiment.run import Run

N = 400


def run_on(training: Items, seed: int = 3) -> Run:
    return Run(
        params={}, training=training, seed=seed, device="cpu", threads=1, max_epochs=1, on_report=lambda report: False
    )


def training_rows(**how: Any) -> Items:
    """Rows whose feature is their number; every tenth or so has the rare class, eight rows have the same patient."""
    rng = np.random.default_rng(0)
    patient = np.arange(N) // 8
    rare = rng.random(N) < 0.1 if "group" not in how else patient % 10 == 0
    x = {"number": np.arange(N), "patient": patient, "day": (np.arange(N) // 4)[::-1].copy()}
    data = rows(lambda: (x, np.where(rare, "rare", "common")), test=0.3, **how)
    return data.draw(data.split().a, Draw(seed=1))[0]


def numbers(items: Items) -> list[int]:
    return sorted(items.x["number"].tolist())


@pytest.mark.parametrize("how", [{}, {"group": "patient"}, {"time": "day"}, {"stratify": False}])
def test_two_parts_of_the_training_items(how: dict[str, Any]) -> None:
    """Nothing is lost or doubled; asked again it is the same; about the share; with another seed another part."""
    training = training_rows(**how)
    run = run_on(training)
    rest, held = run.early_stopping_split(0.25)
    assert sorted([*numbers(rest), *numbers(held)]) == numbers(training)
    assert numbers(run.early_stopping_split(0.25)[1]) == numbers(held)
    assert 0.18 < len(held) / len(training) < 0.32
    other = run_on(training, seed=4).early_stopping_split(0.25)[1]
    assert (numbers(other) == numbers(held)) is ("time" in how)


@pytest.mark.parametrize("how", [{}, {"group": "patient"}])
@pytest.mark.parametrize("seed", range(5))
def test_classes_keep_their_shares(how: dict[str, Any], seed: int) -> None:
    """Of rows within one, of groups within one group."""
    training = training_rows(**how)
    rest, held = run_on(training, seed).early_stopping_split(0.25)
    rare = int((np.asarray(held.y) == "rare").sum())
    wanted = 0.25 * int((np.asarray(training.y) == "rare").sum())
    assert abs(rare - wanted) <= (8 if how else 1)
    if how:
        assert held.unit is not None
        assert rest.unit is not None
        assert not {*held.unit.tolist()} & {*rest.unit.tolist()}


def test_rows_in_the_order_of_time_hold_the_latest_back() -> None:
    """And of a split of the rest, too; equal times stay together."""
    training = training_rows(time="day")
    rest, held = run_on(training).early_stopping_split(0.2)
    day = {number: (N - 1 - number) // 4 for number in range(N)}
    assert max(day[number] for number in numbers(rest)) < min(day[number] for number in numbers(held))
    earlier, later = run_on(rest).early_stopping_split(0.2)
    assert max(day[number] for number in numbers(earlier)) < min(day[number] for number in numbers(later))


def test_items_of_an_own_draw_are_split_by_unit() -> None:
    items = Items(np.arange(60), np.zeros(60), unit=np.arange(60) // 6)
    rest, held = run_on(items).early_stopping_split(0.3)
    assert len(held) == 18
    assert not {*(rest.x // 6).tolist()} & {*(held.x // 6).tolist()}


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, float("nan")])
def test_no_share_is_refused(share: float) -> None:
    with pytest.raises(ExperimentError, match="share must be between 0 and 1"):
        run_on(training_rows()).early_stopping_split(share)


def test_too_few_items_are_refused() -> None:
    """Neither part may be empty; of two items one is held back."""
    with pytest.raises(ExperimentError, match="1 training items are too few"):
        run_on(Items(np.arange(1))).early_stopping_split(0.5)
    assert [len(part) for part in run_on(Items(np.arange(2))).early_stopping_split(0.1)] == [1, 1]
