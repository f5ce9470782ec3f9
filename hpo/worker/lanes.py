"""The lanes of a worker: one population at a time, and the training that each lane has."""

import functools
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch

from hpo.experiment import shipped
from hpo.experiment.shipped import ShippedData
from hpo.storage.outcome import Outcome, OutcomeState
from hpo.training.memory import DeviceLost, is_out_of_memory
from hpo.training.population import EpochReport, LanesFailed, LaneState, Population, Task
from hpo.training.sizing import Size
from hpo.worker.checkpoints import Checkpointer
from hpo.worker.claim import Claim
from hpo.worker.device import DeviceGone
from hpo.worker.fetcher import Group
from hpo.worker.job import Job
from hpo.worker.trainers import Conclusion, TrainingEvent, TrainingFailed

logger = logging.getLogger(__name__)


class LaneTrainings(Protocol):
    """What lanes train: the recipes and data of the experiment that ships (`hpo.experiment.shipped`)."""

    def population(self, model: str, lanes: int, *, samples: int, batch: int, device: torch.device) -> Population:
        """A population for epochs of so many samples, with all the memory that it will take."""

    def choose_lanes(self, model: str, *, samples: int, batch: int, device: torch.device, most: int | None) -> Size:
        """How many lanes are fastest, `most` at the most; measured."""

    def task(self, job: Job) -> Task:
        """The population's task for a job."""

    def outcome(
        self, job: Job, population: Population, state: LaneState, how: OutcomeState
    ) -> tuple[Outcome, bytes | None]:
        """What a training has given that ended with this state, and the scores of its test items, packed.

        A complete final round is tested: the opening of pool B is on record. Raises what its evaluation raises.
        """


class Lanes:
    """Trainings of one group of studies in lockstep on one device: one kind of `Trainers`."""

    def __init__(
        self,
        data: Callable[[], ShippedData],
        checkpointer: Checkpointer,
        device: torch.device,
        *,
        lanes: int | None,
        most: int | None,
        stopped: Callable[[Claim], bool],
        worker: str,
    ) -> None:
        """`lanes` in a population, None: as many as are measured to be fastest, `most` at the most.

        `stopped` tells whether the pruner has stopped a claim's trial.
        """
        self.device = device
        self.group: Group | None = None
        self.training_seconds = 0.0  # in epochs: steps and validation
        self._data, self._checkpointer, self._stopped, self._worker = data, checkpointer, stopped, worker
        self._lanes, self._most = lanes, most
        self._population: Population | None = None
        self._jobs: dict[int, Job] = {}  # by lane
        self._ended: list[tuple[Job, LaneState]] = []  # not concluded yet
        self._measured: dict[Group, int] = {}

    @functools.cached_property
    def trainings(self) -> LaneTrainings:
        """What is trained; its data are loaded when they are first needed."""
        trainings: LaneTrainings = shipped.part("lanes").PairTrainings(self._data(), self._worker)
        return trainings

    @property
    def population(self) -> Population:
        """The population; there is one once a group has been chosen."""
        assert self._population is not None
        return self._population

    @property
    def jobs(self) -> list[Job]:
        """The trainings that have a lane."""
        return list(self._jobs.values())

    @property
    def free(self) -> int:
        """How many trainings more there is room for."""
        return 0 if self._population is None else len(self._population.free)

    @property
    def width(self) -> int | None:
        """The lanes of the population, None where there is none."""
        population = self._population
        return None if population is None else population.lanes

    def states(self) -> Iterator[tuple[Job, LaneState]]:
        """Every training with its state after its last whole epoch; copied from the device as they are asked for."""
        for lane, job in list(self._jobs.items()):
            yield job, self.population.state(lane)
        yield from list(self._ended)

    def state_of(self, job: Job) -> LaneState | None:
        """The last state of a training that has ended and is not concluded."""
        return next((state for other, state in self._ended if other is job), None)

    def serve(self, group: Group) -> None:
        """Make a population for a group of studies; there is none with trainings in it."""
        if group == self.group:
            return
        self.group = self._population = None  # its memory is free before the next one's is asked for
        lanes = self._lanes or self._measure(group)
        while self._population is None:
            try:
                self._population = self._new_population(group, lanes)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or lanes == 1:
                    raise
                lanes = (lanes + 1) // 2
                logger.warning("out of memory: a population of %d lane(s) instead", lanes)
        self.group = group

    def _new_population(self, group: Group, lanes: int) -> Population:
        return self.trainings.population(
            group.model, lanes, samples=group.samples, batch=group.batch, device=self.device
        )

    def leave(self) -> None:
        """Free the population's memory."""
        self.group = self._population = None

    def load(self, jobs: Sequence[Job]) -> None:
        """Let jobs go on from their checkpoints."""
        self._checkpointer.load_all(jobs)

    def _measure(self, group: Group) -> int:
        """As many lanes as are fastest for a group, measured once."""
        if group not in self._measured:
            size = self.trainings.choose_lanes(
                group.model, samples=group.samples, batch=group.batch, device=self.device, most=self._most
            )
            logger.info("%s: %s", group.model, size)
            self._measured[group] = size.lanes
        return self._measured[group]

    def start(self, job: Job) -> None:
        """Put a training on a free lane; TrainingFailed where its code raises.

        One that has no epoch left is evaluated here: what its checkpoint says of its validation is not believed.
        """
        lane = self.population.free[0]
        try:
            task = self.trainings.task(job)
            self.population.start(lane, task, job.state)
            if job.trained and task.validation is not None:
                job.validation = self.population.validate(lane)
        except Exception as error:
            self.population.stop(lane)
            raise TrainingFailed(traceback.format_exc()) from error
        job.state = None  # the lane has it
        self._jobs[lane] = job

    def end(self, job: Job) -> None:
        """Free the lane of a training; its state after its last whole epoch is kept until it is concluded."""
        state = self.population.state(self._lane_of(job))
        self._free(job)
        self._ended.append((job, state))

    def drop(self, job: Job) -> None:
        """Free the lane of a training, or forget its last state."""
        if any(other is job for other in self._jobs.values()):
            self._free(job)
        self._ended = [(other, state) for other, state in self._ended if other is not job]

    def conclude(self, job: Job, how: OutcomeState) -> Conclusion:
        """Evaluate what a training has given; a complete final round opens pool B."""
        state = self.state_of(job)
        assert state is not None  # it has ended
        outcome, answers = self.trainings.outcome(job, self.population, state, how)
        return Conclusion(outcome=outcome, outputs=answers)

    def settle(self, job: Job) -> None:
        """Its state stays here until its outcome is stored, and is kept where its test raises."""

    def forget_checkpoint(self, job: Job) -> None:
        """Its outcome is kept."""
        self._checkpointer.remove(job)

    def wake(self) -> None:
        """Nothing waits here."""

    def close(self, seconds: float) -> None:
        """Keep what is in training."""
        self._checkpointer.save(self.states(), seconds)

    def _lane_of(self, job: Job) -> int:
        return next(lane for lane, other in self._jobs.items() if other is job)

    def _free(self, job: Job) -> None:
        lane = self._lane_of(job)
        self.population.stop(lane)
        del self._jobs[lane]

    def poll(self, stop: Callable[[], bool]) -> list[TrainingEvent]:
        """Train one epoch of every lane and record it in its job; given up, without a trace, as soon as `stop`."""
        width, begun = self.population.width, time.monotonic()
        errors: dict[int, str] = {}
        try:
            reports = self.population.train_epoch(stop=stop)
        except LanesFailed as failed:
            reports, errors = failed.reports, failed.errors
        except DeviceLost as lost:
            self._jobs.clear()  # nothing can be read of them
            raise DeviceGone(self.population.device, lost) from lost
        elapsed = time.monotonic() - begun
        self.training_seconds += elapsed
        if self.population.width < width:
            logger.warning("out of memory: %d lane(s) at a time from now on", self.population.width)
        events = []
        for lane, error in errors.items():
            job = self._jobs[lane]
            self._free(job)  # its state is not read: the device may be what failed
            events.append(TrainingEvent(job=job, error=error))
        for report in reports:
            job = self._jobs[report.lane]
            job.add_epoch(report, elapsed / len(reports))
            events.append(self._event(job, report))
        return events

    def _event(self, job: Job, report: EpochReport) -> TrainingEvent:
        if report.diverged:
            return TrainingEvent(job=job, ended="diverged")
        ended: OutcomeState | None = "complete" if report.last else "pruned" if self._stopped(job.claim) else None
        value = report.validation.get(job.claim.spec.metric.name)
        return TrainingEvent(job=job, epoch=report.epoch, value=value, ended=ended)
