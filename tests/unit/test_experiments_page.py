"""docs/experiments.md: every block of Python on the page runs, and what it defines can be trained."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import hpo
from hpo.errors import ExperimentError
from hpo.experiment.experiment import Experiment
from hpo.experiment.load import load
from hpo.experiment.measure import measure
from hpo.experiment.model import Model
from hpo.experiment.prepare import prepared
from hpo.experiment.rows import Rows
from hpo.experiment.run import Run
from hpo.worker.check import CHECKS

PAGE = (Path(hpo.__file__).parents[1] / "docs" / "experiments.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
NAME = "experiments_page"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """All blocks as one file, imported as hpo imports it."""
    file = tmp_path_factory.mktemp("page") / f"{NAME}.py"
    file.write_text("\n\n".join(BLOCKS))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(file.parent)
        patch.setattr(sys, "path", list(sys.path))
        load(f"{file}:cancer")
        yield sys.modules[NAME]
        sys.modules.pop(NAME)


def trained(experiment: Experiment, model: Model, epochs: int = 2) -> float:
    """The first metric of a model's reference, on validation items of a short training."""
    data = experiment.data
    pool = data.split().a if isinstance(data, Rows) else data.a()
    training, validation = experiment.drawn(pool, hpo.Draw(seed=1, options=experiment.options()))
    run = Run(
        params=model.parsed_space.complete(model.reference),
        training=training,
        seed=1,
        device="cpu",
        threads=1,
        max_epochs=epochs,
        on_report=lambda report: False,
    )
    torch.manual_seed(1)  # a child seeds it before a user's code runs
    (score,) = measure(model.fit(run), validation, experiment.metrics[:1], predict=model.predict)
    run.close()
    assert score is not None
    return score.value


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 10


@pytest.mark.parametrize(
    ("name", "at_least"), [("logistic", 0.93), ("forest", 0.9), ("svm", 0.93), ("baseline", 0.5), ("threshold", 0.8)]
)
def test_models_of_the_page_train(page: ModuleType, name: str, at_least: float) -> None:
    """Those of the smallest file, the baseline, the model with a `predict` of its own: as well as they should."""
    model = page.cancer.models.get(name) or getattr(page, name)
    assert at_least < (value := trained(page.cancer, model)) <= 1
    assert value != 1 or name != "baseline"


def test_a_network_and_early_stopping_train(page: ModuleType) -> None:
    assert 0.7 < trained(page.cancer, page.net, epochs=30) <= 1
    assert 0.9 < trained(page.cancer, Model(page.boosted)) <= 1


@pytest.mark.parametrize(
    ("name", "low", "high"), [("small", 0.85, 1), ("small_net", 0.6, 1), ("two_spirals", 0.7, 1), ("visits", 1, 20)]
)
def test_experiments_of_the_page_train(page: ModuleType, name: str, low: float, high: float) -> None:
    """A draw of one's own, data that are no rows, a CSV file with groups."""
    experiment: Experiment = getattr(page, name)
    for model in experiment.models.values():
        assert low < trained(experiment, model) <= high


def test_metrics_of_the_page_score(page: ModuleType) -> None:
    for metric, outputs, y, value in (
        (page.balanced, page.np.array([0, 1, 1]), page.np.array([0, 0, 1]), 0.75),
        (page.pinball, page.np.array([0.0]), page.np.array([10.0]), 9.0),
        (page.relative, page.np.array([1.0, 4.0]), None, 2.0),
        (page.pressure, page.np.array([1.0, -1.0]), page.np.array([0.0, 0.0]), 1.0),
    ):
        assert metric.evaluate(outputs, y, len(outputs)).value == pytest.approx(value)


def test_a_split_by_time_goes_forward(page: ModuleType) -> None:
    split = page.by_time.split()
    assert split.a.time.max() < split.b.time.min()


def test_the_page_is_described_by_a_process(page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    described = prepared(f"{page.__file__}:visits")
    assert (described.name, described.metrics[0].unit) == ("visits", "mmHg")
    with pytest.raises(ExperimentError, match="it holds several; name one of them"):
        prepared(str(page.__file__))


def test_the_list_of_checks_is_whole() -> None:
    """Each line of the check's table is explained, in its order."""
    table = PAGE[PAGE.index("| line | what would be wrong |") :].partition("\n\n")[0]
    assert tuple(re.findall(r"^\| ([\w ]+?) \|", table, flags=re.MULTILINE)[1:]) == CHECKS


def test_everything_public_is_on_the_page() -> None:
    """A name that a user may write is explained; Probabilities is what `predict_proba` becomes."""
    missing = [name for name in hpo.__all__ if f"hpo.{name}" not in PAGE and f"`{name}`" not in PAGE]
    assert missing == ["Draw", "NoOptions", "Probabilities", "Run"]
