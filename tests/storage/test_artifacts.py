"""What a worker finds on disk: a forgery gives no result, a fault costs neither the worker nor a trial."""

import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from sqlalchemy import Engine

from hpo.digits.lanes import PairTrainings
from hpo.digits.load import load
from hpo.digits.models import parameter_count
from hpo.storage import slots
from hpo.storage.identity import key_of
from hpo.storage.slots import Slot
from hpo.study.spec import StudySpec
from hpo.training.population import LaneState
from hpo.worker.checkpoints import Checkpointer, Checkpoints
from hpo.worker.fetcher import Group
from hpo.worker.job import Checkpoint, CheckpointRecord, Job
from hpo.worker.options import Options
from hpo.worker.signing import Signer
from hpo.worker.stores import Folder
from hpo.worker.worker import Worker
from tests.support.checkpoints import ON_DISK, files_in
from tests.support.handmade import make, small_spec
from tests.support.outcomes import outcome

DIGITS = load()
EPOCHS = 3


@pytest.fixture(autouse=True)
def single_thread() -> Iterator[None]:
    """Networks of this size are slower on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def spec() -> StudySpec:
    """One search trial of three short epochs."""
    tree = small_spec("simple", trials=1, epochs=EPOCHS).model_dump()
    tree["sampler"]["startup_trials"] = 1
    tree["protocol"].update(training_pairs=20, batch_size=60, validation_pairs=100)
    return StudySpec.model_validate(tree)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A database with that study, and the folder of its workers."""

    engine: Engine
    study: int
    folder: Path

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def results(self) -> Path:
        """This database's part of the results."""
        (folder,) = (self.folder / "results").iterdir()
        return folder

    def kept(self) -> Checkpoints:
        return Checkpoints(Folder(self.checkpoints), Signer(key_of(self.engine)))

    def worker(self) -> Worker:
        return Worker(
            self.engine, lambda: DIGITS, Options(artifacts=str(self.folder), device="cpu", lanes=1, max_trials=1)
        )

    def job(self) -> Job:
        """The trial as a worker gets it; given back at once."""
        worker = self.worker()
        worker.coordinator.start()
        group = worker.fetcher.turn(None)
        assert group is not None
        (job,) = worker.fetcher.fetch(group, 1, if_its_turn=False)
        worker.coordinator.release_all()
        assert worker.coordinator.close(lambda: 60.0)
        return Job(claim=job.claim, params=job.params)

    def train(self) -> Slot:
        """Let a worker train the trial, undisturbed by anything on disk; returns its slot."""
        assert self.worker().run() == 0
        (slot,) = slots.list_slots(self.engine, self.study, "search")
        assert slot.state == "done"
        assert slot.outcome is not None
        return slot


@pytest.fixture
def place(sqlite_engine: Engine, tmp_path: Path) -> Place:
    maker = make(sqlite_engine, spec(), limit=0, data_digest=DIGITS.digest)
    return Place(engine=sqlite_engine, study=maker.row.id, folder=tmp_path / "artifacts")


def forged(epoch: int = EPOCHS) -> Checkpoint:
    """Zero weights that are said to be right in 99.99% of all cases."""
    zeros = torch.zeros(parameter_count("simple"))
    return Checkpoint(
        state=LaneState(epoch=epoch, parameters=zeros, first_moment=zeros, second_moment=zeros),
        record=CheckpointRecord(epoch=epoch, seconds=1.0, device_seconds=1.0),
        train_loss=[0.01] * epoch,
        validation_accuracy=[0.9999] * epoch,
    )


def trained(place: Place) -> Job:
    """The trial's job, its folder empty but for a genuine checkpoint after the second epoch."""
    job, worker = place.job(), place.worker()
    worker.lanes.serve(Group.of(job.claim.study))
    worker.lanes.start(job)
    for _ in range(2):
        worker.lanes.poll(stop=lambda: False)
    ((_, state),) = worker.lanes.states()
    place.kept().save(job.digest, job.checkpoint(state))
    return job


# --- Forgeries ----------------------------------------------------------------------------------------------


def plain(place: Place, job: Job) -> None:
    """In the format of before, signed with a plain digest, under every name that it may be looked for."""
    state, buffer = forged().state, io.BytesIO()
    record = {"train_loss": [0.01] * EPOCHS, "validation_accuracy": [0.9999] * EPOCHS, "validation_loss": 0.01}
    about = json.dumps({"epoch": EPOCHS, "record": {**record, "seconds": 1.0, "resumed_at": []}}).encode()
    arrays = {name: getattr(state, name).numpy() for name in ("parameters", "first_moment", "second_moment")}
    np.savez(buffer, about=np.frombuffer(about, dtype=np.uint8), **arrays)
    content = b"hpo 1 " + sha256(buffer.getvalue()).hexdigest().encode() + b"\n" + buffer.getvalue()
    name = Signer(key_of(place.engine)).name(job.digest)
    for path in (job.digest, name, f"{name}.manifest"):
        (place.checkpoints / path).write_bytes(content)


class Forger(Signer):
    """Knows this database's names, which anybody can list, and not its key."""

    def __init__(self, names: Signer) -> None:
        super().__init__(b"guessed")
        self.name = names.name  # type: ignore[method-assign]


def another_key(place: Place, job: Job) -> None:
    """Whole, and under its right name, but for the key."""
    forger = Forger(Signer(key_of(place.engine)))
    Checkpoints(Folder(place.checkpoints), forger).save(job.digest, forged())


def another_training(place: Place, job: Job) -> None:
    """Genuine, but of another training: copied under this one's name."""
    place.kept().save("another", forged())
    theirs, mine = (Signer(key_of(place.engine)).name(digest) for digest in ("another", job.digest))
    for path in list(place.checkpoints.iterdir()):
        path.rename(path.with_name(path.name.replace(theirs, mine)))


FORGERIES: tuple[Callable[[Place, Job], None], ...] = (plain, another_key, another_training)


@pytest.mark.parametrize("forge", FORGERIES)
def test_a_forged_checkpoint_is_no_result(place: Place, forge: Callable[[Place, Job], None]) -> None:
    """The trial is trained from its beginning, and its value is that of its weights."""
    forge(place, place.job())
    slot = place.train()
    assert slot.outcome is not None
    assert slot.outcome.resumed_at == ()
    assert slot.outcome.value == slot.outcome.validation_accuracy[-1] != 0.9999
    assert len([path for path in place.checkpoints.iterdir() if path.name.endswith(".damaged")]) == 1


def test_a_value_is_what_weights_answer_here(place: Place) -> None:
    """Even with the right key: a training that has no epoch left is evaluated again, its record is not asked."""
    place.kept().save(place.job().digest, forged())
    slot = place.train()
    assert slot.outcome is not None
    assert slot.outcome.resumed_at == (EPOCHS,)
    assert slot.outcome.validation_accuracy == (0.9999,) * EPOCHS  # its curve
    assert slot.outcome.value < 0.9
    assert slot.outcome.loss == pytest.approx(np.log(2), abs=1e-6)  # of zero weights


def test_a_value_that_is_evaluated_again_is_the_same(place: Place) -> None:
    """Bit for bit: after the last epoch of an undisturbed training, and from a checkpoint after that epoch."""
    job = trained(place)
    worker = place.worker()
    again = Job(claim=job.claim, params=job.params)
    worker.checkpointer.load(again)
    assert again.state is not None
    worker.lanes.serve(Group.of(job.claim.study))
    worker.lanes.start(again)
    worker.lanes.poll(stop=lambda: False)
    ((_, state),) = worker.lanes.states()
    place.kept().save(again.digest, again.checkpoint(state))
    resumed = place.train().outcome
    assert resumed is not None
    assert resumed.resumed_at == (2, 3)
    assert again.validation is not None
    assert (resumed.value, resumed.loss) == (again.validation["accuracy"], again.validation["cross_entropy"])
    assert resumed.value == resumed.validation_accuracy[-1]
    assert not list(place.checkpoints.iterdir())


def test_an_evaluation_that_failed_is_tried_again_without_training(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state after the last epoch is kept until there is an outcome."""
    with monkeypatch.context() as patched:

        def fail(*arguments: object) -> None:
            raise RuntimeError("the device has a fault")

        patched.setattr(PairTrainings, "outcome", fail)
        place.worker().run()
    outcome = place.train().outcome
    assert outcome is not None
    assert outcome.resumed_at == (EPOCHS,)
    assert outcome.value == outcome.validation_accuracy[-1]
    assert not list(place.checkpoints.iterdir())


def test_other_code_does_not_go_on(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checkpoints have other names, so half of a training is never of other code."""
    trained(place)
    monkeypatch.setattr("hpo.worker.job.code_digest", lambda: "0" * 64)
    slot = place.train()
    assert slot.outcome is not None
    assert slot.outcome.resumed_at == ()


# --- Faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", ON_DISK)
@pytest.mark.parametrize("file", ["manifest", "state.npy"])
def test_a_spoilt_checkpoint_costs_an_epoch_and_nothing_else(
    place: Place, caplog: pytest.LogCaptureFixture, file: str, spoil: str
) -> None:
    """One line says what is wrong with it and what it is called now; the trial begins anew."""
    job = trained(place)
    ON_DISK[spoil](files_in(place.checkpoints)[file])
    anew = Job(claim=job.claim, params=job.params)
    with caplog.at_level(logging.INFO):
        Checkpointer(place.kept(), 60.0).load(anew)
    assert anew.state is None
    (line,) = caplog.messages
    assert line.startswith("simple trial 0: starts from epoch 0, its checkpoint cannot be used: ")
    assert line.endswith(".manifest.damaged")
    assert "\n" not in line
    Checkpointer(place.kept(), 60.0).load(anew)
    assert len(caplog.messages) == 1


def test_a_checkpoint_that_cannot_be_renamed(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """A folder has its new name already: the line says that it stays, and the trial is trained."""
    trained(place)
    files = files_in(place.checkpoints)
    ON_DISK["empty"](files["manifest"])
    (place.checkpoints / f"{files['manifest'].name}.damaged" / "more").mkdir(parents=True)
    slot = place.train()
    assert slot.outcome is not None
    assert slot.outcome.resumed_at == ()
    assert "; it stays where it is (" in caplog.text


# --- Results ------------------------------------------------------------------------------------------------


def left_behind(place: Place) -> tuple[Slot, Path]:
    """A slot whose worker has died with its result on disk."""
    job, worker = place.job(), place.worker()
    worker.coordinator.start()
    (job,) = worker.fetcher.fetch(Group.of(job.claim.study), 1, if_its_turn=False)
    worker.coordinator.close(lambda: 60.0)
    name = worker.spool.put(job.claim.lease, outcome(value=0.9, epochs=1, train_loss=[0.5]), None)
    return job.claim.slot, worker.spool.folder / name


def test_a_result_that_was_left_is_stored(place: Place) -> None:
    """What the tests below spoil."""
    slot, path = left_behind(place)
    place.worker().spool.deliver()
    stored = slots.get_slot(place.engine, slot.id).outcome
    assert stored is not None
    assert stored.value == 0.9
    assert not path.exists()


RESULTS: Mapping[str, Callable[[Path], object]] = {
    **ON_DISK,
    "a plain digest": lambda path: path.write_bytes(plain_result(path)),
    "another key": lambda path: path.write_bytes(Signer(b"guessed").signed("result", body_of(path))),
}


def body_of(path: Path) -> bytes:
    return path.read_bytes().partition(b"\n")[2].replace(b'"value":0.9', b'"value":0.9999')


def plain_result(path: Path) -> bytes:
    return b"hpo 1 " + sha256(body_of(path)).hexdigest().encode() + b"\n" + body_of(path)


@pytest.mark.parametrize("renamed", [True, False])
@pytest.mark.parametrize("spoil", RESULTS)
def test_what_is_no_result_stops_nothing(
    place: Place, caplog: pytest.LogCaptureFixture, spoil: str, renamed: bool
) -> None:
    """A worker that starts sets it aside, or says why it cannot, and stores nothing of it."""
    slot, path = left_behind(place)
    RESULTS[spoil](path)
    if not renamed:
        (path.with_name(f"{path.name}.damaged") / "more").mkdir(parents=True)
    place.worker().spool.deliver()
    after = slots.get_slot(place.engine, slot.id)
    assert (after.state, after.outcome) == ("running", None)
    (line,) = (record.message for record in caplog.records if record.name == "hpo.worker.spool")
    assert line.startswith(f"result {path.name}: ")
    assert line.endswith(f"it is now called {path.name}.damaged") if renamed else "it stays where it is" in line
    assert os.path.lexists(path) is not renamed


def test_results_are_bounded(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """A terabyte is set aside unread."""
    _, path = left_behind(place)
    os.truncate(path, 1 << 40)
    place.worker().spool.deliver()
    assert "larger than" in caplog.text
