"""From a training's end to its outcome; a final round is tested once the opening of pool B is on record."""

import logging
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Engine

from hpo.digits.pools import Digits, FinalPermit, to_network_images
from hpo.storage import slots
from hpo.storage.outcome import OutcomeState
from hpo.training import draws
from hpo.training.population import LaneState
from hpo.worker.aside import SetAside
from hpo.worker.checkpoints import Checkpointer
from hpo.worker.coordinator import Coordinator
from hpo.worker.health import Health
from hpo.worker.job import Job
from hpo.worker.lanes import Lanes
from hpo.worker.outcomes import outcome_of, summary_of
from hpo.worker.threads import Background, in_thread

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class PendingTest:
    """A final round that is trained and waits for its test."""

    job: Job
    state: LaneState
    opening: Future[bool] | None = None  # of pool B, as the database records it


class Evaluation:
    """Hands over what trainings gave, and tests final rounds."""

    def __init__(
        self,
        engine: Engine,
        digits: Digits,
        lanes: Lanes,
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
        self._engine, self._digits, self._lanes, self._coordinator = engine, digits, lanes, coordinator
        self._checkpointer, self._background, self._aside = checkpointer, background, aside
        self._health = health
        self._worker, self._wait_for = worker, wait_for
        self._pending: list[PendingTest] = []

    @property
    def pending(self) -> list[Job]:
        """The final rounds that wait for their test."""
        return [test.job for test in self._pending]

    def states(self) -> list[tuple[Job, LaneState]]:
        """Their trainings with their last states."""
        return [(test.job, test.state) for test in self._pending]

    def end(self, job: Job, state: LaneState, how: OutcomeState) -> None:
        """A training is over: hand over its outcome, or for a final round let it wait for its test."""
        if job.claim.slot.kind == "final" and how == "complete":
            self._pending.append(PendingTest(job=job, state=state))
        else:
            self._finish(job, state, how)

    def test(self) -> None:
        """Have the openings of pool B recorded, and test the final rounds whose opening is on record by now."""
        openings = []
        for pending in self._pending:
            if pending.opening is None:
                record = partial(slots.record_opening, self._engine, *pending.job.claim.lease, self._worker)
                pending.opening = in_thread(record)
            openings.append(pending.opening)
        self._wait_for(openings)
        for pending, opening in zip(list(self._pending), openings, strict=True):
            if opening.done():
                pending.opening = None  # where it was not recorded, it is tried again
                recorded = False
                with self._aside.guard(pending.job.claim.study):
                    recorded = opening.result()
                self._test(pending, recorded=recorded)

    def fail(self, job: Job, error: str) -> None:
        """An exception in a training or its evaluation, which is no failure of its neighbours; `error` is its text."""
        logger.error("%s: training or evaluation failed\n%s", job.title, error.rstrip())
        self._coordinator.fail(job.claim, error, trains=self._health.trains)
        self._health.record_failed(job.claim.study, error)

    def _test(self, pending: PendingTest, *, recorded: bool) -> None:
        claim = pending.job.claim
        self._pending.remove(pending)
        if claim.study in self._aside:
            self._coordinator.release(claim)
        elif recorded:
            self._finish(pending.job, pending.state, "complete")
        else:
            self._coordinator.release(claim)
            logger.warning("%s: the lease was lost before its test", claim.title)

    def _finish(self, job: Job, state: LaneState, how: OutcomeState) -> None:
        population = self._lanes.population
        try:
            training = self._lanes.draws.task(job).training
            outcome, answers = outcome_of(
                job, population, state.parameters, training, how, lambda: self._test_pairs(job)
            )
        except Exception:
            error = traceback.format_exc()
            self._checkpointer.save([(job, state)])  # so that what is tried again is this, and not the training
            self.fail(job, error)
            return
        self._coordinator.finish(job.claim, outcome, answers)
        self._health.record_completed(job.claim.study)
        self._background.submit(lambda: self._checkpointer.remove(job))
        logger.info("%s: %s", job.title, summary_of(outcome, job.claim.slot.kind))

    def _test_pairs(self, job: Job) -> tuple[draws.ImagePool, draws.PairTable]:
        """The test pairs of a final round, whose opening of pool B is on record."""
        claim = job.claim
        permit = FinalPermit(slot_id=claim.slot.id, attempt=claim.slot.attempt, worker=self._worker)
        opened = self._digits.open_pool_b(permit)
        pool = draws.ImagePool.from_numpy("B", to_network_images(opened.images), opened.labels)
        return pool, draws.draw_test(pool, claim.draw_seed, claim.spec.protocol.test_pairs)
