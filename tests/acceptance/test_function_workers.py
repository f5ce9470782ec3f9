"""Trainings by a user's functions through real workers: exact whatever happens to the worker, the child, the code."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest
from sklearn.datasets import load_breast_cancer  # type: ignore[import-untyped]  # ships no types
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # ships no types
from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]  # ships no types
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]  # ships no types

from hpo.experiment import pool_files
from hpo.experiment.description import Description
from hpo.experiment.items import Draw
from hpo.experiment.prepare import prepared
from hpo.experiment.rows import Rows, rows
from hpo.storage.columns import unpack_columns
from tests.support.commandline import DRAIN, Hpo, finish, wait_until
from tests.support.exact import check_exact, results
from tests.support.experiments import DESCENT, create, slots_of
from tests.support.versions import MIGRATION, OtherHpo

CODE = (
    DESCENT
    + """
import ctypes, pathlib, signal, sys
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

def fit(run):
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=run.params["C"])).fit(*run.training)

def logistic(run):
    print("what a user prints", flush=True)
    os.write(1, b"not a message\\n")
    time.sleep(float(os.environ.get("SLOWNESS", "0")))
    return fit(run)

def goes_wrong(act):
    def train(run):
        if run.params["C"] > 40:  # of the four configurations one
            act()
        return fit(run)
    return train

def raises(): {}["nothing"]
def diverges(): raise hpo.Diverged("too large")
def segfault(): ctypes.string_at(0)
def exits(): os._exit(3)
def hangs():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        time.sleep(10_000)
    while True: pass

def forks(run):
    if os.fork() == 0:
        time.sleep(10_000)
    return fit(run)

def sleeps(run):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(10_000)

space = {"C": hpo.Float(1e-4, 1e4, log=True)}
wrong = {act.__name__: goes_wrong(act) for act in (raises, diverges, segfault, exits, hangs)}
cancer = hpo.Experiment(
    "cancer",
    data=hpo.rows(lambda: load_breast_cancer(return_X_y=True), test=0.3),
    metrics=[hpo.accuracy, hpo.log_loss],
    models={name: hpo.Model(train, space=space, reference={"C": 1.0}) for name, train in {
        "logistic": logistic, "epochs": epochs, "forks": forks, "sleeps": sleeps, **wrong}.items()},
)
"""
)
Study = Callable[..., None]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's file."""
    path = tmp_path_factory.mktemp("user") / "cancer_of_workers.py"
    path.write_text(CODE)
    return path


@pytest.fixture(scope="module")
def description(file: Path) -> Description:
    return prepared(str(file))


def start(hpo: Hpo, file: Path, *words: str) -> subprocess.Popen[str]:
    return hpo.start(*DRAIN, "--experiment", file, *words)


def children_of(worker: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of a worker that train, without their watchers."""
    return [child for child in psutil.Process(worker.pid).children() if "hpo.experiment.child" in child.cmdline()]


def no_children(file: Path) -> bool:
    """Whether no process of this user's file is left."""
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and str(file) in process.cmdline():
                return False
        except psutil.NoSuchProcess:
            continue
    return True


@pytest.fixture(params=["sqlite", "postgresql"])
def both(request: pytest.FixtureRequest) -> Iterator[Hpo]:
    return request.getfixturevalue("hpo" if request.param == "sqlite" else "hpo_on_postgres")  # type: ignore[no-any-return]


def test_from_search_to_done(both: Hpo, file: Path, description: Description, tmp_path: Path) -> None:
    """Exact counts; the test items' scores one by one; what the code prints is in a log and nowhere else."""
    create(both, file, "logistic")
    out, err = finish(start(both, file, "--artifacts", "kept"))
    actual = check_exact(both.url, "logistic", search=4, confirm=6, rounds=2)
    assert "prints" not in out + err
    assert "not a message" not in out + err
    logs = [path.read_text() for path in (tmp_path / "kept" / "logs").iterdir()]
    assert sum(log.count("what a user prints") for log in logs) == sum(map(len, actual.values()))
    for slot in [slot for slot in slots_of(both, "logistic") if slot.kind == "final"]:
        assert slot.outcome is not None
        assert slot.outputs is not None
        columns = unpack_columns(slot.outputs, "a slot")
        assert {*columns} >= {"accuracy", "log_loss"}
        assert columns["accuracy"].mean() == slot.outcome.value == slot.outcome.metrics["accuracy"]
        assert slot.outcome.value > 0.8
        assert columns["log_loss"].mean() == pytest.approx(slot.outcome.loss)
        assert slot.outcome.items == len(columns["accuracy"]) == description.sizes["b"]
        assert slot.outcome.code_digest == description.models["logistic"].code_digest
        assert "scikit-learn" in slot.outcome.versions
    assert not list((tmp_path / "kept" / "checkpoints").iterdir())
    assert not list((tmp_path / "kept" / "scratch").iterdir())
    wait_until(lambda: no_children(file))


@pytest.mark.long
def test_killed_anywhere_it_ends_as_if_undisturbed(
    hpo: Hpo, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL of a child and of two workers, SIGTERM of a third: the same results, gone on with where they were."""
    create(hpo, file, "epochs", trials=2, epochs=8)
    finish(start(hpo, file))
    undisturbed = results(check_exact(hpo.url, "epochs", search=2, confirm=4, rounds=2))
    again = Hpo(tmp_path, f"sqlite:///{tmp_path / 'again.db'}")
    create(again, file, "epochs", trials=2, epochs=8)
    monkeypatch.setenv("SLOWNESS", "0.2")
    for victim, number in (("child", signal.SIGKILL), ("worker", signal.SIGKILL), ("worker", signal.SIGTERM)):
        worker = start(again, file, "--checkpoint", "0", "--lease", "2")
        mine = str(worker.pid)
        wait_until(lambda: any(epoch >= 3 and mine in name.split(":") for _, epoch, name in again.running()))  # noqa: B023  # called before mine changes
        if victim == "child":
            children_of(worker)[0].send_signal(number)
            wait_until(lambda: any(slot.failures for slot in slots_of(again, "epochs")))
            worker.send_signal(signal.SIGTERM)
            worker.wait()
        else:
            worker.send_signal(number)
            assert worker.wait() == (-number if number == signal.SIGKILL else 128 + number)
        wait_until(lambda: no_children(file))
    monkeypatch.delenv("SLOWNESS")
    finish(start(again, file))
    actual = check_exact(again.url, "epochs", search=2, confirm=4, rounds=2)
    assert results(actual) == undisturbed
    assert any(slot.outcome and slot.outcome.resumed_at for of_kind in actual.values() for slot in of_kind)
    again.close()


@pytest.mark.parametrize("when", ["while it waits", "when it has been told"])
def test_a_child_that_dies_before_it_begins_fails_no_training(hpo: Hpo, file: Path, when: str) -> None:
    """Killed between two studies, or frozen until a training has been given to it: another child trains that."""
    create(hpo, file, "logistic", trials=1, candidates=1, confirm_rounds=1, rounds=1)
    worker = hpo.start("worker", "--device", "cpu", "--population", "1", "--experiment", file)
    wait_until(lambda: [slot.state for slot in slots_of(hpo, "logistic") if slot.kind == "final"] == ["done"])
    idle = wait_until(lambda: children_of(worker))
    for child in idle:
        child.send_signal(signal.SIGKILL if when == "while it waits" else signal.SIGSTOP)
    create(hpo, file, "epochs", trials=1, candidates=1, confirm_rounds=1, rounds=1)
    if when == "when it has been told":
        wait_until(lambda: any(slot.state == "running" for slot in slots_of(hpo, "epochs")))
        time.sleep(1)  # longer than a claimed slot takes to its child; were it not, this would be the other case
        for child in idle:
            child.kill()
    wait_until(lambda: [slot.state for slot in slots_of(hpo, "epochs") if slot.kind == "final"] == ["done"])
    worker.send_signal(signal.SIGTERM)
    worker.wait()
    assert [(slot.failures, slot.attempt) for slot in slots_of(hpo, "epochs")] == [(0, 1)] * 3
    assert not {child.pid for child in idle} & {child.pid for child in psutil.process_iter()}


FAILURES = {
    "raises": "KeyError: 'nothing'",
    "segfault": "the process that trained was ended by SIGSEGV",
    "exits": "the process that trained ended with exit code 3",
}


@pytest.mark.long
def test_a_training_that_goes_wrong_is_nobody_elses_failure(hpo: Hpo, file: Path) -> None:
    """It is tried twice, the second time in a fresh process, and fails with its code's last words.

    To diverge, or in a search to hang, is a result; what ignores SIGTERM, or is left running, ends all the same.
    """
    for model in (*FAILURES, "diverges", "hangs", "forks"):
        create(hpo, file, model, rounds=1, max_seconds=5.0)
    _, err = finish(start(hpo, file))
    for model, error in FAILURES.items():
        *others, failed = (slot for slot in slots_of(hpo, model) if slot.kind == "search")
        assert [slot.state for slot in others] == ["done"] * 3
        assert (failed.state, failed.failures, failed.attempt) == ("failed", 2, 2)
        assert (failed.error or "").rstrip().endswith(error)
        if model == "raises":
            assert "/hpo/experiment/" not in (failed.error or ""), "the frames are the user's"
        assert all(slot.state == "done" for slot in slots_of(hpo, model) if slot.kind != "search")
    for model in ("diverges", "hangs"):
        actual = check_exact(hpo.url, model, search=4, confirm=6, rounds=1)
        assert [slot.result for slot in actual["search"]] == ["complete", "complete", "complete", "diverged"]
        outcome = actual["search"][-1].outcome
        assert outcome is not None
        assert (outcome.value, outcome.loss) == (0.0, None)
    assert "it took longer than budget.max_seconds = 5" in err
    check_exact(hpo.url, "forks", search=4, confirm=6, rounds=1)
    wait_until(lambda: no_children(file))


@pytest.mark.parametrize("how", ["SIGTERM", "hpo db upgrade"])
def test_a_worker_that_is_stopped_gives_its_slot_back_at_once(hpo: Hpo, file: Path, how: str) -> None:
    """Though its child ignores SIGTERM and would sleep for hours."""
    create(hpo, file, "sleeps")
    worker = start(hpo, file, "--lease", "2")
    wait_until(lambda: hpo.running() and children_of(worker))
    if how == "SIGTERM":
        worker.send_signal(signal.SIGTERM)
        finish(worker, 128 + signal.SIGTERM)
    else:
        finish(OtherHpo(hpo, migration=MIGRATION).start("db", "upgrade"))
        finish(worker, 3)
    search = slots_of(hpo, "sleeps")
    assert {slot.state for slot in search} == {"waiting"}
    assert not any(slot.expiries or slot.failures for slot in search)
    wait_until(lambda: no_children(file))


def test_several_train_at_once_fold_by_fold(
    hpo: Hpo, file: Path, description: Description, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial's value is the mean of its folds'; a final round has the search's share of the items and no folds."""
    create(hpo, file, "logistic", trials=6, rounds=1, folds=3)
    monkeypatch.setenv("SLOWNESS", "0.5")
    worker = start(hpo, file, "--population", "2")
    wait_until(lambda: worker.poll() is not None or len(hpo.running()) == len(children_of(worker)) == 2)
    assert worker.poll() is None, "never were there two at once"
    finish(worker)
    every = slots_of(hpo, "logistic")
    assert {slot.state for slot in every} == {"done"}
    (reference,) = (slot.outcome for slot in every if (slot.kind, slot.idx) == ("search", 0))
    assert reference is not None
    pool = pool_files.load(description.folder / "a")
    data = rows(lambda: load_breast_cancer(return_X_y=True), test=0.3)
    assert isinstance(data, Rows)
    folds = [data.draw(pool, Draw(seed=reference.seeds.draw, fold=fold, folds=3)) for fold in range(3)]
    assert reference.items == len(pool.items) == sum(len(validation) for _, validation in folds)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=1.0))
    scores = [model.fit(*training).score(*held) for training, held in folds]
    assert reference.value == pytest.approx(fmean(scores), abs=1e-12)


def test_one_worker_serves_the_digits_and_an_experiment(hpo: Hpo, file: Path) -> None:
    create(hpo, file, "logistic", trials=2, rounds=1)
    hpo.create(trials=2)
    finish(start(hpo, file))
    check_exact(hpo.url, "logistic", search=2, confirm=4, rounds=1)
    check_exact(hpo.url, "ws", search=2, confirm=4, rounds=2)


def test_an_experiment_needs_no_images(hpo: Hpo, file: Path) -> None:
    create(hpo, file, "logistic", trials=1, rounds=1)
    finish(hpo.start("--data", "/nowhere", *DRAIN, "--experiment", file))
    check_exact(hpo.url, "logistic", search=1, confirm=2, rounds=1)


@pytest.mark.long
def test_what_a_worker_was_not_started_with_is_left_to_others(hpo: Hpo, file: Path, tmp_path: Path) -> None:
    """One line for each study, and each experiment that cannot be described; what can be trained is trained."""
    create(hpo, file, "logistic")
    other_data = tmp_path / file.name
    other_data.write_text(CODE.replace("test=0.3", "test=0.4"))
    create(hpo, other_data, "epochs")
    hpo.create(trials=1)
    broken = file.with_name("broken_of_workers.py")
    broken.write_text("import nothing_of_this_name\n")
    _, err = finish(hpo.start(*DRAIN, "--experiment", broken), 1)
    assert err.count("ModuleNotFoundError: No module named 'nothing_of_this_name'") == 2  # at the start and at the end
    assert err.count("is of experiment cancer, with which this worker was not started (--experiment); skipped") == 2
    check_exact(hpo.url, "ws", search=1, confirm=2, rounds=2)
    assert {slot.attempt for slot in slots_of(hpo, "logistic")} == {0}
    _, err = finish(start(hpo, file))
    assert err.count("study epochs uses other data than those of ") == 1
    check_exact(hpo.url, "logistic", search=4, confirm=6, rounds=2)
    assert {slot.attempt for slot in slots_of(hpo, "epochs")} == {0}
