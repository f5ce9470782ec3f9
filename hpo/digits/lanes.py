"""What the lanes of a population train of the digits: recipes, draws, the seal on pool B, and what an outcome says.

`hpo.worker.lanes.LaneTrainings` is what the worker asks for. Loads torch. Shapes: n parameters.
"""

import functools
import math
from collections.abc import Mapping

import torch

from hpo import machine
from hpo.digits import draws
from hpo.digits.draws import ImagePool, PairTable
from hpo.digits.pools import Digits, FinalPermit, to_network_images
from hpo.digits.recipes import ACCURACY, CROSS_ENTROPY, METRICS, RECIPES, PairAnswers
from hpo.storage.outcome import Outcome, OutcomeState, pack_answers
from hpo.training.augmentation import SAMPLES_PER_PAIR
from hpo.training.population import LaneState, Population, Task
from hpo.training.sizing import Size, choose_lanes, samples_to_measure
from hpo.worker.job import Job
from hpo.worker.outcomes import circumstances, device_name, finite, versions

_TYPICAL: Mapping[str, float] = {
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "dropout": 0.1,
    "aux_weight": 1.0,
    "main_weight": 1.0,
}


def pool_a(digits: Digits) -> ImagePool:
    """Pool A, for training and validation."""
    return ImagePool.from_numpy("A", to_network_images(digits.pool_a_images()), digits.pool_a_labels())


def pool_b(digits: Digits, *, slot_id: int, attempt: int, worker: str) -> ImagePool:
    """Pool B, for one attempt at a final slot whose opening is on record."""
    opened = digits.open_pool_b(FinalPermit(slot_id=slot_id, attempt=attempt, worker=worker))
    return ImagePool.from_numpy("B", to_network_images(opened.images), opened.labels)


class PairTrainings:
    """Trainings on pairs of digits, for the lanes of a worker."""

    def __init__(self, digits: Digits, worker: str) -> None:
        """`worker` is who opens pool B."""
        self.pool = pool_a(digits)
        self._digits, self._worker = digits, worker
        self._draw = functools.lru_cache(maxsize=4)(self._drawn)  # all trials of a search share theirs

    def population(self, model: str, lanes: int, *, samples: int, batch: int, device: torch.device) -> Population:
        """A population with all the memory that it will take for the pairs of its lanes."""
        population = Population(
            RECIPES[model], lanes, self.pool, samples=samples, batch=batch, metrics=METRICS, device=device
        )
        population.reserve(PairTable.blank(samples))
        return population

    def choose_lanes(self, model: str, *, samples: int, batch: int, device: torch.device, most: int | None) -> Size:
        """How many lanes are fastest, `most` at the most; measured."""
        enough = samples_to_measure(samples, batch)
        table, _ = draws.draw_training(self.pool, 0, math.ceil(enough / SAMPLES_PER_PAIR))
        return choose_lanes(
            RECIPES[model],
            self.pool,
            PairTable(**{name: getattr(table, name)[:enough] for name in ("image", "shift", "digit")}),
            params=_TYPICAL,
            samples=samples,
            batch=batch,
            device=device,
            most=most,
            free=machine.free_memory(),
            peak=machine.peak_memory,
        )

    def task(self, job: Job) -> Task:
        """The population's task for a job; a final round has no validation."""
        claim, protocol = job.claim, job.claim.spec.protocol
        training, validation = self._draw(claim.draw_seed, protocol.training_pairs, protocol.validation_pairs)
        return Task(
            key=claim.slot.id,
            params={name: float(value) for name, value in job.params.items()},  # they have no others
            seed=claim.slot.seed,
            epochs=job.epochs,
            training=training,
            validation=None if claim.slot.kind == "final" else validation,
        )

    def outcome(
        self, job: Job, population: Population, state: LaneState, how: OutcomeState
    ) -> tuple[Outcome, bytes | None]:
        """The outcome of a job whose training ended with this state, and a final round's packed answers.

        A complete final round opens pool B, whose opening is on record. Raises what its evaluation raises.
        """
        claim = job.claim
        value, loss, train_accuracy, answers = claim.spec.metric.diverged, None, None, None
        if how == "complete":
            prediction = population.predict(state.parameters, self.task(job).training)
            train_accuracy = PairAnswers.of(prediction).accuracy
        if how != "diverged" and claim.slot.kind != "final":
            assert job.validation is not None  # of these very parameters
            value, loss = job.validation[ACCURACY], job.validation[CROSS_ENTROPY]
        elif how == "complete":
            pool, pairs = self._test_pairs(job)
            tested = PairAnswers.of(population.predict(state.parameters, pairs, population.inputs_of(pool)))
            value, loss, answers = tested.accuracy, tested.loss, _packed(tested)
        outcome = Outcome(
            state=how,
            value=value,
            loss=loss,
            train_accuracy=train_accuracy,
            epochs=len(job.train_loss),
            train_loss=tuple(finite(x) for x in job.train_loss),
            validation_accuracy=tuple(job.validation_accuracy),
            device_seconds=round(job.device_seconds, 3),
            device=device_name(population.device),
            versions={**versions(), "kernels": population.kernels},
            **circumstances(job),
        )
        return outcome, answers

    def _drawn(self, seed: int, training: int, validation: int) -> tuple[PairTable, PairTable]:
        samples, left = draws.draw_training(self.pool, seed, training)
        return samples, draws.draw_validation(self.pool, left, seed, validation)

    def _test_pairs(self, job: Job) -> tuple[ImagePool, PairTable]:
        """The test pairs of a final round, whose opening of pool B is on record."""
        claim = job.claim
        pool = pool_b(self._digits, slot_id=claim.slot.id, attempt=claim.slot.attempt, worker=self._worker)
        return pool, draws.draw_test(pool, claim.draw_seed, claim.spec.protocol.test_pairs)


def _packed(answers: PairAnswers) -> bytes:
    digits = answers.digits
    return pack_answers(answers.answer.numpy(), None if digits is None else digits.numpy())
