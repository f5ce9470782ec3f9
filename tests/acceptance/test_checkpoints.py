"""A training that goes on from its checkpoint is the undisturbed one, whatever ended its worker."""

import contextlib
import os
import signal
import socket
import socketserver
import threading
import time
from pathlib import Path

import boto3  # type: ignore[import-untyped]  # ships no types
import pytest

from hpo.storage import slots, studies
from hpo.storage.engine import begin_write, open_engine
from hpo.storage.identity import key_of
from hpo.storage.slots import Slot
from hpo.worker.manifests import SignedFolders
from hpo.worker.signing import Signer
from hpo.worker.stores import Folder
from tests.support.checkpoints import files_in, manifest_in
from tests.support.commandline import DRAIN, Hpo, finish, on_this_machine, train, wait_until
from tests.support.exact import check_exact
from tests.support.long import too_long

STUDY = {"trials": 1, "epochs": 60, "sampler": "random", "pruner": "none", "confirm_rounds": 1, "rounds": 1}


class Relay(socketserver.ThreadingTCPServer):
    """A way to a server on loopback that can be cut: connections stay, and nothing comes through any more."""

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.behind = ("127.0.0.1", int(url.rpartition(":")[2]))
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.is_cut = False
        threading.Thread(target=self.serve_forever).start()

    def server_close(self) -> None:
        """As the end of a `with` does it: the loop of its thread ends first."""
        self.shutdown()
        super().server_close()


class Passing(socketserver.BaseRequestHandler):
    """Both directions of one connection."""

    server: Relay

    def handle(self) -> None:
        with socket.create_connection(self.server.behind) as behind:
            back = threading.Thread(target=self._pass_on, args=[behind, self.request])
            back.start()
            self._pass_on(self.request, behind)
            back.join()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(65536):
                if not self.server.is_cut:
                    target.sendall(content)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def search_slot(url: str) -> Slot:
    """The study's one search slot."""
    engine = open_engine(url)
    try:
        row = studies.get_study(engine, "ws")
        (slot,) = slots.list_slots(engine, row.id, "search")
        return slot
    finally:
        engine.dispose()


def undisturbed(hpo: Hpo) -> Slot:
    """The same study trained in one go, in another database."""
    other = Hpo(hpo.folder, f"sqlite:///{hpo.folder / 'undisturbed.db'}")
    other.create(**STUDY)
    other("worker", "--max-trials", "1", "--population", "1")
    return search_slot(other.url)


def interrupt(hpo: Hpo, number: signal.Signals) -> None:
    """Train some epochs, then end the worker."""
    hpo.create(**STUDY)
    worker = hpo.start(*DRAIN, "--checkpoint", "0", "--lease", "2")
    wait_until(lambda: any(epoch >= 3 for _, epoch, _ in hpo.running()))
    worker.send_signal(number)
    finish(worker, -number if number == signal.SIGKILL else 128 + number)


@pytest.mark.parametrize("number", [*too_long(signal.SIGTERM), signal.SIGKILL])
def test_an_interrupted_training_equals_the_undisturbed_one(hpo: Hpo, number: signal.Signals) -> None:
    """On one thread and with one lane bit for bit: losses, accuracies, seeds; and it says where it went on."""
    interrupt(hpo, number)
    err = hpo(*DRAIN).stderr
    assert "ws trial 0: resumes after epoch " in err
    slot, other = search_slot(hpo.url), undisturbed(hpo)
    assert slot.outcome is not None
    assert other.outcome is not None
    (resumed,) = slot.outcome.resumed_at
    assert 1 <= resumed < 60
    assert other.outcome.resumed_at == ()
    for name in ("value", "loss", "train_accuracy", "train_loss", "validation_accuracy", "seeds", "epochs"):
        assert getattr(slot.outcome, name) == getattr(other.outcome, name), name
    assert slot.attempt == 2
    assert list(Path(hpo.folder / "hpo.db.artifacts" / "checkpoints").iterdir()) == []


def test_another_worker_goes_on_from_a_bucket(hpo: Hpo, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where workers share no folder; nothing is left in the bucket."""
    monkeypatch.setenv("HPO_ARTIFACTS", bucket)
    interrupt(hpo, signal.SIGTERM)
    assert "ws trial 0: resumes after epoch " in hpo(*DRAIN).stderr
    slot, other = search_slot(hpo.url), undisturbed(hpo)
    assert slot.outcome is not None
    assert other.outcome is not None
    assert slot.outcome.resumed_at
    assert slot.outcome.train_loss == other.outcome.train_loss
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket="hpo")
    assert not (hpo.folder / "hpo.db.artifacts" / "checkpoints").exists()


def test_epochs_that_the_checkpoint_alone_knows(hpo: Hpo) -> None:
    """A worker dies with epochs on disk that the database has not taken: their values are not lost."""
    hpo.create(**{**STUDY, "epochs": 1000}, training_pairs=5)
    worker = hpo.start(*DRAIN, "--checkpoint", "0", "--lease", "2")
    wait_until(lambda: any(epoch >= 3 for _, epoch, _ in hpo.running()))
    folder = hpo.folder / "hpo.db.artifacts" / "checkpoints"
    wait_until(lambda: any(folder.glob("*.manifest")))
    name, _, _ = manifest_in(folder).name.partition(".")
    engine = open_engine(hpo.url)
    kept = SignedFolders(Folder(folder), Signer(key_of(engine)))

    def epoch_on_disk() -> int:
        manifest = kept.find(name)
        return 0 if manifest is None else int(manifest.record["epoch"])

    with begin_write(engine):  # nobody else writes
        ((_, reported, _),) = hpo.running()
        wait_until(lambda: epoch_on_disk() >= reported + 3)
        worker.kill()
        worker.wait()
    engine.dispose()
    hpo(*DRAIN)
    actual = check_exact(hpo.url, "ws", search=1, confirm=1, rounds=1)
    assert actual["search"][0].outcome is not None
    assert actual["search"][0].outcome.resumed_at[0] >= reported + 3


def test_a_signal_does_not_wait_for_a_bucket(hpo: Hpo, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has gone silent: with forty trials in work one try for each takes half a minute, with eight at once."""
    hpo.create(**{**STUDY, "model": "simple", "trials": 40, "epochs": 1000, "training_pairs": 5})
    with Relay(os.environ["AWS_ENDPOINT_URL"]) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", relay.url)
        worker = hpo.start("worker", "--device", "cpu", "--population", "40", "--artifacts", bucket)
        wait_until(lambda: len([epoch for _, epoch, _ in hpo.running() if epoch]) == 40)
        relay.is_cut = True
        worker.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        _, err = finish(worker, 143)
        assert time.monotonic() - begun < on_this_machine(20)  # it takes ten where nothing else runs
    assert "no checkpoint: 40 of 40 take too long" in err
    assert err.count("given back") == 40
    assert hpo.running() == []


def test_a_damaged_checkpoint_is_reported_and_not_used(hpo: Hpo) -> None:
    """The training begins anew, and ends where it would have."""
    interrupt(hpo, signal.SIGTERM)
    state = files_in(hpo.folder / "hpo.db.artifacts" / "checkpoints")["state.npy"]
    content = state.read_bytes()
    state.write_bytes(bytes([*content[:-1], content[-1] ^ 1]))
    err = hpo(*DRAIN).stderr
    assert "ws trial 0: starts from epoch 0, its checkpoint cannot be used: state.npy is damaged: its digest" in err
    assert ".manifest.damaged" in err
    slot, other = search_slot(hpo.url), undisturbed(hpo)
    assert slot.outcome is not None
    assert other.outcome is not None
    assert slot.outcome.resumed_at == ()
    assert slot.outcome.train_loss == other.outcome.train_loss


def test_a_folder_that_cannot_be_written_to_is_one_line(hpo: Hpo) -> None:
    """Before anything is claimed."""
    hpo.create(trials=1)
    (hpo.folder / "file").write_text("")
    line = hpo.refused("worker", "--drain", "--artifacts", "file/below")
    assert "--artifacts" in line
    train(hpo)
