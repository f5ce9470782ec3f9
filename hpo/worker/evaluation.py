"""From a training's end to its outcome; a final round is tested once the opening of pool B is on record."""

import logging
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Engine

from hpo.storage import slots
from hpo.storage.outcome import OutcomeState
from hpo.worker.aside import SetAside
from hpo.worker.checkpoints import Checkpointer
from hpo.worker.coordinator import Coordinator
from hpo.worker.health import Health
from hpo.worker.job import Job
from hpo.worker.outcomes import summary_of
from hpo.worker.threads import Background, in_thread
from hpo.worker.trainers import Conclusion, Trainers

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class PendingTest:
    """A final round that is trained and waits for its test."""

    job: Job
    trainers: Trainers
    opening: Future[bool] | None = None  # of pool B, as the database records it


class Evaluation:
    """Hands over what trainings gave, and has final rounds tested."""

    def __init__(
        self,
        engine: Engine,
        coordinator: Coordinator,
        checkpointer: Checkpointer,
        background: Background,
        aside: SetAside,
        health: Health,
        *,
        worker: str,
        wait_for: Callable[[Sequence[Future[bool]]], None],
    ) -> None:
        """`wait_for` waits for the database's answers: a moment for all of them together, while others train."""
        self._engine, self._coordinator = engine, coordinator
        self._checkpointer, self._background, self._aside = checkpointer, background, aside
        self._health = health
        self._worker, self._wait_for = worker, wait_for
        self._pending: list[PendingTest] = []

    @property
    def pending(self) -> list[Job]:
        """The final rounds that wait for their test."""
        return [test.job for test in self._pending]

    def end(self, trainers: Trainers, job: Job, how: OutcomeState) -> None:
        """A training is over: hand over its outcome, or for a final round let it wait for its test."""
        trainers.end(job)
        if job.claim.slot.kind == "final" and how == "complete":
            self._pending.append(PendingTest(job=job, trainers=trainers))
        else:
            self._conclude(trainers, job, how)

    def test(self) -> None:
        """Have the openings of pool B recorded, and test the final rounds whose opening is on record by now."""
        openings = []
        for pending in self._pending:
            if pending.opening is None:
                pending.opening = in_thread(partial(self._open, pending))
                pending.opening.add_done_callback(lambda _, trainers=pending.trainers: trainers.wake())  # type: ignore[misc]  # mypy knows no lambda's defaults
            openings.append(pending.opening)
        self._wait_for(openings)
        for pending, opening in zip(list(self._pending), openings, strict=True):
            if opening.done():
                pending.opening = None  # where it was not recorded, it is tried again
                recorded = False
                with self._aside.guard(pending.job.claim.study):
                    recorded = opening.result()
                self._test(pending, recorded=recorded)

    def fail(self, job: Job, error: str, *, retry: bool = True) -> None:
        """A training or its evaluation failed, which is no failure of its neighbours; `error` is its text.

        Without `retry` it would fail anywhere, and this machine is not to blame.
        """
        logger.error("%s: training or evaluation failed\n%s", job.title, error.rstrip())
        self._coordinator.fail(job.claim, error, retry=retry, trains=self._health.trains)
        if retry:
            self._health.record_failed(job.claim.study, error)

    def store(self, trainers: Trainers, job: Job, conclusion: Conclusion) -> None:
        """Hand over what a training gave."""
        outcome = conclusion.outcome
        self._coordinator.finish(job.claim, outcome, conclusion.outputs)
        self._health.record_completed(job.claim.study)
        trainers.drop(job)
        self._background.submit(lambda: trainers.forget_checkpoint(job))
        logger.info("%s: %s", job.title, summary_of(outcome, job.claim.slot.kind))

    def _open(self, pending: PendingTest) -> bool:
        """Record that pool B is opened, once the training is kept: from here on only its test is to be made again."""
        pending.trainers.settle(pending.job)
        return slots.record_opening(self._engine, *pending.job.claim.lease, self._worker)

    def _test(self, pending: PendingTest, *, recorded: bool) -> None:
        claim = pending.job.claim
        self._pending.remove(pending)
        if recorded and claim.study not in self._aside:
            self._conclude(pending.trainers, pending.job, "complete")
            return
        pending.trainers.drop(pending.job)
        self._coordinator.release(claim)
        if claim.study not in self._aside:
            logger.warning("%s: the lease was lost before its test", claim.title)

    def _conclude(self, trainers: Trainers, job: Job, how: OutcomeState) -> None:
        try:
            conclusion = trainers.conclude(job, how)
        except Exception:
            error = traceback.format_exc()
            if (state := trainers.state_of(job)) is not None:
                self._checkpointer.save([(job, state)])  # so that what is tried again is this, and not the training
            trainers.drop(job)
            self.fail(job, error)
            return
        if conclusion is not None:
            self.store(trainers, job, conclusion)
