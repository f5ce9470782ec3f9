"""`hpo worker --scale-to-zero`: a worker that finds nothing to claim for some minutes ends."""

import time

from hpo.cli.worker import worker
from hpo.storage import claims, slots
from hpo.storage.engine import open_engine
from hpo.storage.workers import list_workers
from tests.support.commandline import PATIENCE, Hpo, finish

SOON = ("worker", "--device", "cpu", "--population", "1", "--scale-to-zero", "0.05")  # minutes


def left_why(hpo: Hpo) -> list[str | None]:
    """Why the workers of this database have ended."""
    engine = open_engine(hpo.url)
    try:
        return [one.left_why for one in list_workers(engine)]
    finally:
        engine.dispose()


def test_it_ends_though_others_train(hpo: Hpo) -> None:
    """With exit code 0 and the reason in the table of workers; one that drains would wait for them."""
    hpo.create(trials=1, confirm_rounds=1, rounds=1)
    engine = open_engine(hpo.url)
    (held,) = claims.claim(engine, 1, worker="another", lease_seconds=PATIENCE, model="ws")
    _, err = finish(hpo.start(*SOON))
    assert "nothing could be claimed for 0.05 minutes (--scale-to-zero)" in err
    assert left_why(hpo) == ["nothing could be claimed for 0.05 minutes (--scale-to-zero)"]
    assert slots.release(engine, held.id, held.token or "")
    engine.dispose()


def test_a_paused_study_is_nothing_to_claim(hpo: Hpo) -> None:
    """Nor does it make the exit code 1."""
    hpo.create(trials=1)
    hpo("study", "pause", "ws")
    begun = time.monotonic()
    hpo(*SOON)
    assert time.monotonic() - begun >= 3


def test_it_ends_after_its_work(hpo: Hpo) -> None:
    """All that can be claimed is done before, though every training takes longer than it waits."""
    hpo.create(trials=2, epochs=40, training_pairs=200, confirm_rounds=1, rounds=1)
    _, err = finish(hpo.start(*SOON[:-1], "0.002"))
    assert hpo.show()["phase"] == "done"
    assert err.count("nothing could be claimed") == 1


def test_its_minutes(hpo: Hpo) -> None:
    """Five where none are given, whatever option follows; zero ends an idle worker at once."""
    for words, minutes in (
        (["--scale-to-zero"], 5),
        (["--scale-to-zero", "--drain"], 5),
        (["--scale-to-zero", "7"], 7),
    ):
        assert worker.make_context("worker", words).params["idle_minutes"] == minutes
    assert "--scale-to-zero" in hpo.refused("worker", "--scale-to-zero", "soon", code=2)
    assert "'-1'" in hpo.refused("worker", "--scale-to-zero=-1", code=2)  # click takes it for an option
    hpo.create(trials=1)
    hpo("study", "pause", "ws")
    assert "nothing could be claimed for 0 minutes" in hpo(*SOON[:-1], "0").stderr
