"""A finished comparison, put into a database by hand: slots claimed and finished, nothing trained.

Accuracies follow a law with an interaction in it: many searches have one, and the report works hardest then.
"""

import math
from collections.abc import Sequence

import numpy as np
from sqlalchemy import Engine

from hpo.digits.answers import DrawPairs, pair_draws
from hpo.digits.pools import Digits
from hpo.digits.study_data import DigitsData
from hpo.storage import claims, slots, studies
from hpo.storage.optuna_storage import make_storage
from hpo.storage.outcome import Outcome
from hpo.storage.slots import Slot
from hpo.study import operations, phases
from hpo.study.spec import HYPERPARAMETERS, StudySpec

LEVEL = {"simple": 0.84, "ws": 0.87, "ws-aux": 0.965}  # accuracy with the paper's values
GAIN = 0.02  # of the best configuration over the paper's
LEASE = 600.0  # seconds
PRUNED = 0.3  # share of the adaptive trials


def finish(engine: Engine, digits: Digits, specs: Sequence[StudySpec]) -> None:
    """Create the studies and finish them: search, confirm, final rounds with their outputs."""
    data = DigitsData(lambda: digits)
    operations.create(engine, [operations.Planned(spec=spec, data=data) for spec in specs])
    draw = pair_draws(digits.pool_b_labels().astype(np.int64))
    storage = make_storage(engine)
    for spec in specs:
        row = studies.get_study(engine, spec.name)
        while True:
            claimed = claims.claim(engine, 8, worker="bench", lease_seconds=LEASE, model=spec.model, study_ids=[row.id])
            for slot in claimed:
                assert slot.token is not None
                if slot.kind == "search":
                    storage.bind_trial(slot.id, slot.token)
                _finish(engine, spec, row, slot, draw)
            if not claimed and phases.advance(engine, row) is None:
                break


def _finish(engine: Engine, spec: StudySpec, row: studies.StudyRow, slot: Slot, draw: DrawPairs) -> None:
    assert slot.token is not None
    rng = np.random.default_rng([slot.seed % 2**32, slot.idx])
    params = slot.params
    if params is None:
        params = _drawn(spec, rng)
        slots.record_params(engine, slot.id, slot.token, params)
    outputs = None
    if slot.kind == "final":
        slots.record_opening(engine, slot.id, slot.token, "bench")
    pairs = spec.protocol.test_pairs if slot.kind == "final" else spec.protocol.validation_pairs
    shared = np.random.default_rng(slot.round or 0).normal(0, 0.006)  # rounds of one number share their draws
    value = (
        round(
            pairs
            * min(1.0, _accuracy(spec, {name: float(x) for name, x in params.items()}) + shared + rng.normal(0, 0.004))
        )
        / pairs
    )
    state = "pruned" if slot.adaptive and rng.random() < PRUNED else "complete"
    if slot.kind == "final":
        outputs = _answers(slot, value, draw, pairs)
    slots.finish(engine, slot.id, slot.token, _outcome(spec, row, slot, state, value), outputs)


def _drawn(spec: StudySpec, rng: np.random.Generator) -> dict[str, float]:
    drawn = {}
    for name in HYPERPARAMETERS[spec.model]:
        bounds = spec.space[name]
        low, high = (math.log(x) if bounds.log else x for x in (bounds.low, bounds.high))
        x = rng.uniform(low, high)
        drawn[name] = math.exp(x) if bounds.log else x
    return drawn


def _accuracy(spec: StudySpec, params: dict[str, float]) -> float:
    """Quadratic in log learning rate and dropout, and the best learning rate falls with the dropout."""
    if params == spec.paper:
        return LEVEL[spec.model]
    rate, dropout = math.log10(params["learning_rate"]) + 2.8, params["dropout"] - 0.3
    return max(0.5, LEVEL[spec.model] + GAIN - 0.03 * rate**2 - 0.1 * dropout**2 - 0.08 * rate * dropout)


def _outcome(spec: StudySpec, row: studies.StudyRow, slot: Slot, state: str, value: float) -> Outcome:
    epochs = spec.budget.epochs if state == "complete" else spec.budget.epochs // 2
    at = [epoch / epochs for epoch in range(1, epochs + 1)]
    rising = [round(value * (1 - 0.3 * math.exp(-6 * x)), 4) for x in at]
    fields = {
        "state": state,
        "value": value,
        "loss": round(1.2 - value, 4),
        "train_accuracy": round(min(1.0, value + 0.02), 4),
        "epochs": epochs,
        "train_loss": [round(0.7 * math.exp(-3 * x) + 0.01, 4) for x in at],
        "validation_accuracy": [] if slot.kind == "final" else rising,
        "seconds": 60.0,
        "attempt": slot.attempt,
        "worker": "bench",
        "device": "none",
        "versions": {"hpo": "0.1.0"},
        "git_commit": None,
        "spec_digest": row.spec_digest,
        "data_digest": row.data_digest,
        "seeds": {"slot": slot.seed, "draw": slot.seed},
    }
    return Outcome.from_fields(fields, f"slot {slot.id}")


def _answers(slot: Slot, value: float, draw: DrawPairs, pairs: int) -> bytes:
    """Packed answers of this very accuracy; pairs of close digits are those got wrong."""
    _, digits = draw(slot.seed, pairs)
    near = np.exp(-np.abs(digits[:, 0] - digits[:, 1]) / 2.0)
    rng = np.random.default_rng(slot.id)
    wrong = rng.choice(pairs, size=pairs - round(value * pairs), replace=False, p=near / near.sum())
    answer = (digits[:, 0] <= digits[:, 1]).astype(np.uint8)
    answer[wrong] ^= 1
    return (answer + 2 * (10 * digits[:, 0] + digits[:, 1])).astype(np.uint8).tobytes()
