"""The lanes of a worker: one population at a time, and the training that each lane has."""

import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import torch

from hpo import machine
from hpo.training.memory import is_out_of_memory
from hpo.training.population import EpochReport, LanesFailed, LaneState, Population
from hpo.training.sizing import choose_lanes
from hpo.worker.fetcher import Group
from hpo.worker.job import Draws, Job, Validation

logger = logging.getLogger(__name__)


class TrainingFailed(Exception):
    """A training could not be put on a lane; the message is its traceback."""


@dataclass(frozen=True, kw_only=True)
class LaneEpoch:
    """What one epoch gave a training: a report, or the traceback of its failure, which has freed its lane."""

    job: Job
    report: EpochReport | None
    error: str | None


class Lanes:
    """Trainings of one group of studies, side by side on one device."""

    def __init__(self, draws: Draws, device: torch.device, *, lanes: int | None, most: int | None) -> None:
        """`lanes` in a population, None: as many as are measured to be fastest, `most` at the most."""
        self.draws, self.device = draws, device
        self.group: Group | None = None
        self.training_seconds = 0.0  # in epochs: steps and validation
        self._lanes, self._most = lanes, most
        self._population: Population | None = None
        self._jobs: dict[int, Job] = {}  # by lane
        self._measured: dict[Group, int] = {}

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

    def states(self) -> list[tuple[Job, LaneState]]:
        """Every training with its state after its last whole epoch."""
        return [(job, self.population.state(lane)) for lane, job in self._jobs.items()]

    def serve(self, group: Group) -> None:
        """Make a population for a group of studies; there is none with trainings in it."""
        if group == self.group:
            return
        self.group = self._population = None  # its memory is free before the next one's is asked for
        samples = group.samples
        lanes = self._lanes or self._measure(group, samples)
        images = self.draws.pool.images
        while self._population is None:
            try:
                self._population = Population(
                    group.model, lanes, images, samples=samples, batch=group.batch, device=self.device
                )
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or lanes == 1:
                    raise
                lanes = (lanes + 1) // 2
                logger.warning("out of memory: a population of %d lane(s) instead", lanes)
        self.group = group

    def _measure(self, group: Group, samples: int) -> int:
        """As many lanes as are fastest for a group, measured once."""
        if group not in self._measured:
            size = choose_lanes(
                group.model,
                self.draws.pool,
                samples=samples,
                batch=group.batch,
                device=self.device,
                most=self._most,
                free=machine.free_memory(),
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
            task = self.draws.task(job)
            self.population.start(lane, task, job.state)
            if job.trained and task.validation is not None:
                loss, accuracy = self.population.validate(lane)
                job.validation = Validation(accuracy=accuracy, loss=loss)
        except Exception as error:
            self.population.stop(lane)
            raise TrainingFailed(traceback.format_exc()) from error
        job.state = None  # the lane has it
        self._jobs[lane] = job

    def stop(self, job: Job) -> LaneState:
        """Free the lane of a training; returns its state after its last whole epoch."""
        state = self.population.state(self._lane_of(job))
        self._free(job)
        return state

    def _lane_of(self, job: Job) -> int:
        return next(lane for lane, other in self._jobs.items() if other is job)

    def _free(self, job: Job) -> None:
        lane = self._lane_of(job)
        self.population.stop(lane)
        del self._jobs[lane]

    def train_epoch(self, stop: Callable[[], bool]) -> list[LaneEpoch]:
        """Train one epoch of every lane and record it in its job; given up, without a trace, as soon as `stop`."""
        width, begun = self.population.width, time.monotonic()
        errors: dict[int, str] = {}
        try:
            reports = self.population.train_epoch(stop=stop)
        except LanesFailed as failed:
            reports, errors = failed.reports, failed.errors
        elapsed = time.monotonic() - begun
        self.training_seconds += elapsed
        if self.population.width < width:
            logger.warning("out of memory: %d lane(s) at a time from now on", self.population.width)
        epochs = []
        for lane, error in errors.items():
            job = self._jobs[lane]
            self._free(job)  # its state is not read: the device may be what failed
            epochs.append(LaneEpoch(job=job, report=None, error=error))
        for report in reports:
            job = self._jobs[report.lane]
            job.add_epoch(report, elapsed / len(reports))
            epochs.append(LaneEpoch(job=job, report=report, error=None))
        return epochs
