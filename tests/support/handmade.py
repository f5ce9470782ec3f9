"""Databases with made-up results: studies filled through hpo.storage's own functions, without training.

The made-up accuracies follow a known law, so tests know what the report must find.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from hpo.storage import claims, slots, studies
from hpo.storage.optuna_storage import make_storage
from hpo.storage.outcome import Outcome
from hpo.storage.slots import Slot
from hpo.storage.studies import NewStudy, StudyRow
from hpo.study import phases
from hpo.study.spec import HYPERPARAMETERS, StudySpec, builtin_spec

DATA_DIGEST = "d" * 64
LEVEL = {"simple": 0.84, "ws": 0.87, "ws-aux": 0.965}  # accuracy with the paper's values
GAIN = 0.02  # what the best configuration brings
VERSIONS = {"hpo": "0.1.0", "torch": "2.13.0", "optuna": "5.0.0", "python": "3.11.2"}


def small_spec(model: str, *, trials: int = 12, epochs: int = 6, rounds: int = 5, **changes: Any) -> StudySpec:
    """The builtin spec of a model on a budget that tests can fill."""
    spec = builtin_spec(model).with_options(trials=trials, epochs=epochs, rounds=rounds)
    tree = spec.model_dump()
    tree["sampler"]["startup_trials"] = min(6, trials)
    tree["protocol"].update(confirm_configurations=2, confirm_rounds=3, **changes)
    return StudySpec.model_validate(tree)


def create(
    engine: Engine, spec: StudySpec, *, data_digest: str = DATA_DIGEST, repeat_group: str | None = None
) -> StudyRow:
    """The study as `hpo study create` makes it."""
    return studies.create_study(
        engine,
        NewStudy(
            name=spec.name,
            model=spec.model,
            spec=spec.canonical(),
            spec_digest=spec.digest,
            data_digest=data_digest,
            seed=spec.seed,
            in_flight=spec.budget.in_flight,
            trial_seeds=phases.search_seeds(spec.seed, 0, spec.budget.trials),
            adaptive_from=spec.sampler.startup_trials,
            reference=spec.reference,
            repeat_group=repeat_group,
            phase="search" if spec.budget.trials else "final",
        ),
    )


@dataclass
class Maker:
    """A worker that makes its results up."""

    engine: Engine
    spec: StudySpec
    row: StudyRow
    fails: Callable[[Slot], bool] = lambda slot: False
    state: Callable[[Slot], str] = lambda slot: "complete"
    paper_is_best: bool = False
    outputs: Callable[[Slot, float], bytes] | None = None
    binds: Collection[str] = ("search",)  # kinds of slots that get a trial of Optuna's, as workers give all of them
    made: int = field(default=0, init=False)

    def work(self, limit: int = 1_000_000) -> int:
        """Finish up to `limit` more slots, moving the phases on; returns how many have been finished in all."""
        limit += self.made
        while self.made < limit:
            claimed = claims.claim(
                self.engine,
                min(8, limit - self.made),
                worker=f"host:{1 + self.made % 2}",
                lease_seconds=600.0,
                model=self.spec.model,
                study_ids=[self.row.id],
            )
            for slot in claimed:
                self.end(slot)
            if not claimed and phases.advance(self.engine, self.row) is None:
                break
        return self.made

    def end(self, slot: Slot) -> None:
        assert slot.token is not None
        assert slot.worker is not None
        self.made += 1
        if slot.kind in self.binds:
            make_storage(self.engine).bind_trial(slot.id, slot.token)
        if self.fails(slot):
            text = 'Traceback (most recent call last):\n  File "x.py", line 1\nRuntimeError: out of <memory>'
            slots.fail(self.engine, slot.id, slot.token, text, retry=False)
            return
        rng = np.random.default_rng([slot.seed % 2**32, len(slot.label or ""), len(slot.model), slot.idx])
        params = slot.params
        if params is None:
            params = self._draw(rng)
            slots.record_params(self.engine, slot.id, slot.token, params)
        if slot.kind == "final":
            slots.record_opening(self.engine, slot.id, slot.token, slot.worker)
        outcome = self._outcome(slot, {name: float(value) for name, value in params.items()}, rng)
        packed = self.outputs(slot, outcome.value) if self.outputs and slot.kind == "final" else None
        assert slots.finish(self.engine, slot.id, slot.token, outcome, packed)

    def _draw(self, rng: np.random.Generator) -> dict[str, float]:
        drawn = {}
        for name in HYPERPARAMETERS[self.spec.model]:
            bounds = self.spec.space[name]
            low, high = (math.log(x) if bounds.log else x for x in (bounds.low, bounds.high))
            x = rng.uniform(low, high)
            drawn[name] = math.exp(x) if bounds.log else x
        return drawn

    def accuracy(self, params: dict[str, float]) -> float:
        """The law: quadratic in log learning rate and dropout, highest near the middle of the space."""
        if params == self.spec.paper:
            return LEVEL[self.spec.model] + (GAIN if self.paper_is_best else 0.0)
        lr, dropout = math.log10(params["learning_rate"]), params["dropout"]
        loss = 0.03 * (lr + 2.8) ** 2 + 0.1 * (dropout - 0.3) ** 2
        return max(0.5, LEVEL[self.spec.model] + (0.0 if self.paper_is_best else GAIN) - loss)

    def _outcome(self, slot: Slot, params: dict[str, float], rng: np.random.Generator) -> Outcome:
        state = self.state(slot)
        epochs = self.spec.budget.epochs if state == "complete" else max(1, self.spec.budget.epochs // 2)
        # Rounds of one number share their draw, so part of the noise is common to all configurations.
        shared = np.random.default_rng(slot.round or 0).normal(0, 0.006)
        value = round(min(1.0, self.accuracy(params) + shared + rng.normal(0, 0.004)), 3)
        rising = [round(value * (1 - 0.3 * math.exp(-1.5 * e / epochs * 4)), 4) for e in range(1, epochs + 1)]
        fields = {
            "state": state,
            "value": 0.5 if state == "diverged" else value,
            "loss": None if state == "diverged" else round(1.2 - value, 4),
            "train_accuracy": round(min(1.0, value + 0.02), 4) if state == "complete" else None,
            "epochs": epochs,
            "train_loss": [round(0.7 * math.exp(-3 * e / epochs) + 0.01, 4) for e in range(1, epochs + 1)],
            "validation_accuracy": [] if slot.kind == "final" else rising,
            "seconds": 12.5,
            "device_seconds": 3.125,  # of four lanes
            "attempt": slot.attempt,
            "worker": slot.worker,
            "device": "cpu x86_64, 1 thread(s)",
            "versions": VERSIONS,
            "git_commit": "0123456789abcdef",
            "spec_digest": self.row.spec_digest,
            "data_digest": self.row.data_digest,
            "seeds": {"slot": slot.seed, "draw": slot.seed},
        }
        return Outcome.from_fields(fields, f"slot {slot.id}")


def packed_answers(draw: Callable[[int, int], Any], pairs: int) -> Callable[[Slot, float], bytes]:
    """Answers that give the accuracy exactly; close digits are the ones got wrong."""

    def packed(slot: Slot, value: float) -> bytes:
        _, digits = draw(slot.seed, pairs)
        target = digits[:, 0] <= digits[:, 1]
        near = np.exp(-np.abs(digits[:, 0] - digits[:, 1]) / 2.0)
        rng = np.random.default_rng(slot.id)
        wrong = rng.choice(pairs, size=pairs - round(value * pairs), replace=False, p=near / near.sum())
        answer = target.astype(np.uint8)
        answer[wrong] ^= 1
        codes: NDArray[np.uint8] = (answer + 2 * (10 * digits[:, 0] + digits[:, 1])).astype(np.uint8)
        return codes.tobytes()

    return packed


def make(
    engine: Engine,
    spec: StudySpec,
    limit: int = 1_000_000,
    data_digest: str = DATA_DIGEST,
    repeat_group: str | None = None,
    **how: Any,
) -> Maker:
    """A study with up to `limit` results; `how` are the options of Maker."""
    row = create(engine, spec, data_digest=data_digest, repeat_group=repeat_group)
    maker = Maker(engine=engine, spec=spec, row=row, **how)
    maker.work(limit)
    return maker
