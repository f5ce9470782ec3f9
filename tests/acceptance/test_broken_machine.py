"""A machine on which every training raises, and trainings that raise wherever they are tried."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from hpo.digits.lanes import PairTrainings
from hpo.storage import slots, studies, workers
from hpo.storage.engine import open_engine
from hpo.training.population import Task
from hpo.worker.job import Job
from tests.support.commandline import DRAIN, Hpo, Said, finish, train, wait_until
from tests.support.exact import check_exact
from tests.support.long import too_long
from tests.support.open_slots import any_running

DATABASES = ["hpo", pytest.param("hpo_on_postgres", marks=pytest.mark.long)]
BROKEN = """
from hpo.cli.main import main
from hpo.training.lockstep import Lockstep
def broken(*arguments, **options):
    raise RuntimeError("CUDA error: an illegal memory access was encountered\\nCompile with `TORCH_USE_CUDA_DSA`.")
Lockstep.epoch = broken
main()
"""


@pytest.fixture(params=["hpo"])
def on(request: pytest.FixtureRequest) -> Hpo:
    """`hpo` on a database of the test's choice."""
    chosen: Hpo = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def engine(on: Hpo) -> Iterator[Engine]:
    opened = open_engine(on.url)
    yield opened
    opened.dispose()


def raise_in(monkeypatch: pytest.MonkeyPatch, spoiled: Callable[[Job], bool]) -> None:
    """Let these trainings raise whenever they are tried in this process."""
    task = PairTrainings.task

    def broken(trainings: PairTrainings, job: Job) -> Task:
        if spoiled(job):
            raise ValueError("this configuration cannot be trained")
        return task(trainings, job)

    monkeypatch.setattr(PairTrainings, "task", broken)


@pytest.mark.parametrize("on", DATABASES, indirect=True)
@pytest.mark.parametrize("lanes", ["1", *too_long("4")])
def test_its_failures_do_not_count(on: Hpo, engine: Engine, lanes: str) -> None:
    """It stops with a reason and code 1; no trial has paid for it, and another machine does them all."""
    on.create(trials=6, startup=6)
    broken = on.start_python("-c", BROKEN, *DRAIN[:-1], lanes)
    last = finish(broken, code=1)[1].splitlines()[-1]
    assert "trainings failed on this machine (cpu), so they do not count against the trials" in last
    assert last.endswith("Last: RuntimeError: CUDA error: an illegal memory access was encountered")
    shown = on.show()
    assert (shown["trials"]["failed"], shown["trials"]["waiting"], shown["blocked"]) == (0, 6, False)
    (gone,) = workers.list_workers(engine)
    assert gone.left_why is not None
    assert gone.left_why in last
    assert (gone.completed, gone.failed > 2) == (0, True)
    train(on)
    check_exact(on.url, "ws", search=6, confirm=4, rounds=2)


@pytest.mark.parametrize("most", ["1", "2", "3"])
def test_with_few_trials_to_do_it_says_so_too(hpo: Hpo, most: str) -> None:
    """As jobs of a batch system run it: they end before a row of failures is long."""
    hpo.create()
    broken = hpo.start_python("-c", BROKEN, *DRAIN, "--max-trials", most)
    log = finish(broken, code=1)[1]
    assert log.endswith("Last: RuntimeError: CUDA error: an illegal memory access was encountered\n")
    assert ("do not count" in log) == (most == "3")


def test_a_machine_without_room_for_a_population_is_broken(hpo: Hpo) -> None:
    """As where the CUDA build has no kernels for the device: named in a line, and so in the table of workers."""
    hpo.create()
    hpo.create(name="other", model="simple")
    no_kernel = BROKEN.replace(
        "Lockstep.epoch = broken", "import hpo.digits.lanes\nhpo.digits.lanes.Population = broken"
    )
    log = finish(hpo.start_python("-c", no_kernel, *DRAIN), code=1)[1]
    assert "Traceback" not in log
    last = log.splitlines()[-1]
    assert "nothing can be trained on this machine (cpu): RuntimeError: CUDA error" in last
    (gone,) = workers.list_workers(open_engine(hpo.url))
    assert (gone.left_why or "-") in last
    assert hpo.show()["trials"]["waiting"] == 4


@pytest.mark.parametrize("on", DATABASES, indirect=True)
def test_what_failed_there_goes_to_another_worker(on: Hpo, engine: Engine) -> None:
    """Beside one that trains, the broken one spoils nothing, though it is quicker."""
    on.create(trials=12, startup=12, epochs=4, training_pairs=100)
    row = studies.get_study(engine, "ws")
    whole = on.start(*DRAIN)
    wait_until(lambda: any_running(engine))
    broken = on.start_python("-c", BROKEN, "worker", "--device", "cpu", "--population", "2")  # it would not drain
    log = finish(whole)[1]
    finish(broken, code=1)
    assert "Traceback" not in log
    search = slots.list_slots(engine, row.id, "search")
    assert {slot.state for slot in search} == {"done"}
    assert any(slot.failures for slot in search)
    assert studies.get_study(engine, "ws").phase == "done"


def test_a_trial_that_raises_everywhere_fails(on: Hpo, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of the search, so nothing has been completed here before: the others show that the machine trains."""
    raise_in(monkeypatch, lambda job: job.title == "ws trial 0")
    on.create(trials=5, startup=5, sampler="random", pruner="none")
    on(*DRAIN)
    search = slots.list_slots(engine, studies.get_study(engine, "ws").id, "search")
    assert [slot.state for slot in search] == ["failed"] + ["done"] * 4
    assert search[0].failures == 2
    assert on.show()["phase"] == "done", "one of five counts in the budget"


@pytest.mark.parametrize(("lanes", "epochs"), [(1, 1), (2, 16)])
def test_a_study_that_raises_stops_no_other(
    on: Hpo, engine: Engine, monkeypatch: pytest.MonkeyPatch, lanes: int, epochs: int
) -> None:
    """It is left alone by name after a few trainings, even while others train, and another is served to its end."""
    raise_in(monkeypatch, lambda job: job.claim.study.name == "broken")
    on.create(name="broken", trials=20, sampler="random", epochs=epochs)
    on.create(name="whole", trials=1, rounds=1, confirm_rounds=1, sampler="random", epochs=epochs)
    log = on(*DRAIN[:-1], str(lanes), code=1).stderr
    (line,) = [line for line in log.splitlines() if "left alone from now on" in line]
    assert "study broken" in line
    assert "times in a row here; last: ValueError: this configuration cannot be trained" in line
    assert studies.get_study(engine, "whole").phase == "final", "another machine may search on, so pool B stays shut"
    on("study", "pause", "broken")
    on(*DRAIN[:-1], str(lanes))
    assert studies.get_study(engine, "whole").phase == "done"
    tried = slots.list_slots(engine, studies.get_study(engine, "broken").id, "search")
    assert sum(slot.failures for slot in tried) <= 5 * lanes, "not all of them were tried"
    assert not any_running(engine)


@pytest.mark.parametrize("on", DATABASES, indirect=True)
def test_a_search_of_which_too_much_failed_waits(on: Hpo, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown as blocked, and goes on once `resume` has queued the failed trials again, as what they were."""
    on.create(trials=4, startup=4, sampler="random", pruner="none")
    with monkeypatch.context() as patched:
        raise_in(patched, lambda job: job.title in ("ws trial 0", "ws trial 2"))
        log = on(*DRAIN, code=1).stderr
    assert log.splitlines()[-1].endswith("study ws has failures in phase search (`hpo study resume ws`)")
    (listed,) = on.json("study", "list")
    assert (listed["phase"], listed["blocked"], listed["trials"]["failed"]) == ("search", True, 2)
    assert "search (blocked)" in " ".join(on("study", "list").stdout.split())
    assert "more than a quarter" in " ".join(on("study", "show", "ws").stdout.split())
    assert "2 failed trials queued again" in on("study", "resume", "ws").stderr
    train(on)
    actual = check_exact(on.url, "ws", search=4, confirm=4, rounds=2, requeued=2)
    paper = actual["search"][0]
    assert paper.params == {"learning_rate": 3e-3, "weight_decay": 2.5e-5, "dropout": 0.15}
    again = on.json("trial", "show", "ws", str(paper.trial_number))
    assert again["params"] == paper.params


def test_run_says_at_once_that_a_worker_was_killed(hpo: Hpo, tmp_path: Path) -> None:
    """As the kernel does where memory is short; the other workers go on."""
    hpo.create(trials=40, epochs=20)
    run = hpo.start("run", "--file", tmp_path / "ws.toml", "--workers", "2", "--out", "report")
    said = Said(run)
    pids = wait_until(lambda: {int(worker.split(":")[-2]) for _, _, worker in hpo.running()})
    os.kill(pids.pop(), signal.SIGKILL)
    wait_until(lambda: said.count("a worker was killed, perhaps for memory: each needs about 450 MB"))
    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    assert run.wait(120) == 130
