"""The plain modules under torch.optim.Adam are the oracle of the population."""

import dataclasses
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpo.digits import draws, models
from hpo.digits.recipes import PairAnswers
from hpo.training import dropout, initialisation, population, streams
from hpo.training.augmentation import SAMPLES_PER_PAIR
from hpo.training.stacked import CannotStack, stack
from tests.support.training import digit_population, parameters_of

MIXED = [
    {"learning_rate": 3e-3, "weight_decay": 2.5e-5, "dropout": 0.15, "aux_weight": 1.0, "main_weight": 0.5},
    {"learning_rate": 1e-4, "weight_decay": 1e-2, "dropout": 0.6, "aux_weight": 5.0, "main_weight": 0.1},
    {"learning_rate": 1e-2, "weight_decay": 0.0, "dropout": 0.0, "aux_weight": 0.2, "main_weight": 2.0},
    {"learning_rate": 1e-3, "weight_decay": 1e-4, "dropout": 0.3, "aux_weight": 0.05, "main_weight": 1.0},
]
BATCH, PAIRS = 20, 10  # 180 samples: 9 steps an epoch
FEW_STEPS_BATCH = 90  # 2 steps an epoch
UNEVEN_BATCH = 35  # 6 steps, the last of 5 samples: numbers of dropout decisions that fill no words of four


@pytest.fixture(scope="module")
def pool() -> draws.ImagePool:
    """Random strokes on blank paper: ties in the pooling included, as real digits have them."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(60, draws.SIDE, draws.SIDE, generator=generator)
    images *= F.avg_pool2d(torch.rand(60, 1, 14, 14, generator=generator), 5, 1, 2)[:, 0] > 0.52
    return draws.ImagePool(name="A", images=images, labels=torch.arange(60) % 10)


def task(pool: draws.ImagePool, params: dict[str, float], seed: int, epochs: int = 3) -> population.Task:
    training, left = draws.draw_training(pool, seed, PAIRS)
    validation = draws.draw_validation(pool, left, seed, 30)
    return population.Task(key=seed, params=params, seed=seed, epochs=epochs, training=training, validation=validation)


def population_of(
    pool: draws.ImagePool, model: str, lanes: int, batch: int = BATCH, dtype: torch.dtype = torch.float32
) -> population.Population:
    return digit_population(model, lanes, pool, samples=SAMPLES_PER_PAIR * PAIRS, batch=batch, dtype=dtype)


def mixed_population(
    pool: draws.ImagePool, name: str, batch: int, dtype: torch.dtype
) -> tuple[population.Population, list[population.Task]]:
    """Eight lanes with four sets of hyperparameters, and their tasks."""
    tasks = [task(pool, MIXED[i % 4], seed=100 + i) for i in range(8)]
    lanes = population_of(pool, name, 8, batch, dtype)
    for lane, one in enumerate(tasks):
        lanes.start(lane, one)
    return lanes, tasks


@pytest.mark.parametrize("name", ["simple", "ws-aux"])
def test_a_validation_is_the_same_again(pool: draws.ImagePool, name: str) -> None:
    """In its lane after the epoch, and from the lane's state in another population.

    To the last digits: how a product of several lanes rounds is up to MKL, and bit for bit on most of its settings.
    """
    lanes, tasks = mixed_population(pool, name, BATCH, torch.float32)
    reports = lanes.train_epoch()
    for report, one in zip(reports, tasks, strict=True):
        again = population_of(pool, name, 1)
        again.start(0, one, lanes.state(report.lane))
        assert lanes.validate(report.lane) == pytest.approx(report.validation, rel=1e-7)
        assert again.validate(0) == pytest.approx(report.validation, rel=1e-7)


def plain_training(
    pool: draws.ImagePool,
    name: str,
    task: population.Task,
    epochs: int,
    dtype: torch.dtype,
    *,
    batch_size: int = BATCH,
    nudge: int | None = None,
) -> nn.Module:
    """The training as most people write it: a module, torch.optim.Adam, one batch after the other.

    With a `nudge` every parameter starts one unit in the last place higher or lower: at random, by this seed.
    """
    model = models.ARCHITECTURES[name]().to(dtype)
    model.load_state_dict(initialisation.initial_parameters(model, task.seed))
    if nudge is not None:
        generator = torch.Generator().manual_seed(nudge)
        for parameter in model.parameters():
            up = torch.rand(parameter.shape, generator=generator) < 0.5
            parameter.data = parameter.data.nextafter(torch.where(up, torch.inf, -torch.inf).to(dtype))
    hyper = task.params
    adam = torch.optim.Adam(model.parameters(), lr=hyper["learning_rate"], weight_decay=hyper["weight_decay"])
    images = draws.shifted(pool.images[task.training.image], task.training.shift).to(dtype)
    counters = streams.counters(math.ceil(dropout.decisions(model, batch_size) / 4))
    dropout_key = torch.tensor([streams.key(task.seed, "dropout")])
    order_key = torch.tensor([streams.key(task.seed, "order")])
    step = 0
    for epoch in range(epochs):
        keys = streams.step_keys(order_key, torch.tensor([epoch]))
        order = streams.permutations(keys, streams.counters(len(images)))[0]
        for batch in order.split(batch_size):
            masks = streams.keep_masks(
                streams.step_keys(dropout_key, torch.tensor([step])),
                counters,
                streams.thresholds(torch.tensor([hyper["dropout"]])),
            )
            dropout.set_masks(model, masks[0].to(dtype), len(batch))
            logits, digits = model(images[batch])
            loss = F.cross_entropy(logits, task.training.target[batch])
            if name == "ws-aux":
                aux = sum(F.cross_entropy(digits[:, i], task.training.digit[batch, i]) for i in (0, 1))
                loss = hyper["main_weight"] * loss + hyper["aux_weight"] * aux
            adam.zero_grad()
            loss.backward()
            adam.step()
            step += 1
    return model


@pytest.mark.parametrize("batch", [BATCH, UNEVEN_BATCH])
@pytest.mark.parametrize("name", list(models.ARCHITECTURES))
def test_a_population_of_8_with_mixed_hyperparameters_equals_8_plain_trainings(
    pool: draws.ImagePool, name: str, batch: int
) -> None:
    """In float64, after three epochs, every parameter of every lane is the plain loop's, smaller last batch or not."""
    lanes, tasks = mixed_population(pool, name, batch, torch.float64)
    for _ in range(3):
        lanes.train_epoch()
    for lane, one in enumerate(tasks):
        plain = plain_training(pool, name, one, 3, torch.float64, batch_size=batch)
        start = initialisation.initial_parameters(plain, one.seed)
        ours = parameters_of(lanes, lane)
        for key, value in plain.state_dict().items():
            off, way = (ours[key] - value).norm(), (value - start[key]).norm()
            assert off <= 1e-9 * way, f"lane {lane}, {key}: off by {off / way:.2g} of its way"


@pytest.mark.parametrize("name", list(models.ARCHITECTURES))
def test_in_float32_a_population_is_as_close_to_plain_trainings_as_they_are_to_each_other(
    pool: draws.ImagePool, name: str
) -> None:
    """After two steps a lane is off by no more than what a start that differs in the last place makes of it.

    How fast rounding grows is up to the processor's instructions, so the plain loop says what to allow. Two things
    would make it grow past any such measure, and both hit one training and spare its twin: a pooled square whose two
    largest places are nearly equal passes its gradient to the other one, which more steps make likelier, and Adam
    makes a whole step of a gradient that is nothing but rounding, which the mean over all parameters keeps small.
    """
    lanes, tasks = mixed_population(pool, name, FEW_STEPS_BATCH, torch.float32)
    lanes.train_epoch()

    def plain(job: population.Task, nudge: int | None = None) -> Tensor:
        model = plain_training(pool, name, job, 1, torch.float32, batch_size=FEW_STEPS_BATCH, nudge=nudge)
        return nn.utils.parameters_to_vector(model.parameters()).detach()

    for lane, job in enumerate(tasks):
        expected = plain(job)
        rounding = max(float((plain(job, nudge) - expected).abs().mean()) for nudge in range(3))
        off = float((lanes.parameters[lane] - expected).abs().mean())
        assert off <= 10 * rounding, f"lane {lane}: off by {off:.2g}, where rounding makes {rounding:.2g}"


@pytest.mark.parametrize("batch", [1, BATCH, UNEVEN_BATCH, 179, 180, 500])
def test_the_training_loss_is_the_mean_over_the_samples(pool: draws.ImagePool, batch: int) -> None:
    """Where nothing moves, an epoch's loss is that of all samples in one pass, whatever the batches."""
    still = task(pool, {**MIXED[0], "learning_rate": 1e-300, "dropout": 0.0}, seed=3)
    lanes = population_of(pool, "simple", 1, batch, torch.float64)
    lanes.start(0, still)
    (report,) = lanes.train_epoch()
    whole = PairAnswers.of(lanes.predict(lanes.parameters[0], still.training))
    assert report.train_loss == pytest.approx(whole.loss, rel=1e-9)


@pytest.mark.parametrize(("lanes", "most"), [(3, 40), (3, 2), (8, 64_000)])
def test_items_are_evaluated_as_many_at_once_as_memory_is_planned_for(
    pool: draws.ImagePool, lanes: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many lanes there are; what comes out is the same, and no lane gets none."""
    tasks = [task(pool, MIXED[lane % 4], seed=lane) for lane in range(lanes)]
    validated = []
    for limit in (population.EVALUATION_ITEMS, most):
        monkeypatch.setattr(population, "EVALUATION_ITEMS", limit)
        made = population_of(pool, "ws", lanes, dtype=torch.float64)
        for lane, one in enumerate(tasks):
            made.start(lane, one)
        at_once: list[int] = []

        def seen(module: nn.Module, inputs: tuple[Tensor], at_once: list[int] = at_once) -> None:
            if not module.training:
                at_once.append(inputs[0].shape[:2].numel())

        made._evaluator.register_forward_pre_hook(seen)
        validated.append([report.validation for report in made.train_epoch()])
        assert sum(at_once) == 30 * lanes
        assert max(at_once) <= max(limit, lanes)
    for whole, parts in zip(*validated, strict=True):
        assert parts == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("name", list(models.ARCHITECTURES))
def test_predictions_are_the_plain_modules(pool: draws.ImagePool, name: str) -> None:
    """Loss, answers and digits of `predict`, and the epoch's validation, are those of the plain module."""
    alone = task(pool, MIXED[0], seed=7)
    lanes = population_of(pool, name, 2, dtype=torch.float64)
    lanes.start(1, alone)
    report = lanes.train_epoch()[0]
    model = models.ARCHITECTURES[name]().to(torch.float64).eval()
    model.load_state_dict(parameters_of(lanes, 1))
    table = alone.validation
    assert table is not None
    with torch.no_grad():
        logits, digits = model(pool.images.to(torch.float64)[table.image])
    prediction = PairAnswers.of(lanes.predict(lanes.parameters[1], table))
    assert torch.equal(prediction.answer.long(), logits.argmax(-1))
    assert prediction.loss == pytest.approx(float(F.cross_entropy(logits, table.target)), rel=1e-9)
    assert prediction.accuracy == report.validation["accuracy"]
    assert prediction.loss == pytest.approx(report.validation["cross_entropy"], rel=1e-9)
    if name == "ws-aux":
        assert prediction.digits is not None
        assert torch.equal(prediction.digits, digits.argmax(-1))


def test_a_lane_refilled_midway_equals_a_fresh_trial(pool: draws.ImagePool) -> None:
    """Neighbours, lane, population size and what ran before leave no trace in a trial."""
    wanted = task(pool, MIXED[0], seed=42)
    alone = population_of(pool, "ws-aux", 1, dtype=torch.float64)
    alone.start(0, wanted)
    crowd = population_of(pool, "ws-aux", 3, dtype=torch.float64)
    crowd.start(0, task(pool, MIXED[1], seed=1))
    crowd.start(2, task(pool, MIXED[2], seed=2))
    crowd.train_epoch()
    crowd.stop(2)
    crowd.start(2, wanted)
    for _ in range(2):
        alone.train_epoch()
        crowd.train_epoch()
    torch.testing.assert_close(crowd.parameters[2], alone.parameters[0], rtol=1e-8, atol=1e-12)


def test_a_saved_lane_goes_on_elsewhere(pool: draws.ImagePool) -> None:
    """Continued from its state on another lane, a training ends where the undisturbed one does."""
    alone = task(pool, MIXED[0], seed=9)
    undisturbed = population_of(pool, "ws", 1)
    undisturbed.start(0, alone)
    undisturbed.train_epoch()
    state = undisturbed.state(0)
    elsewhere = population_of(pool, "ws", 1)
    elsewhere.start(0, alone, state)
    first, second = undisturbed.train_epoch()[0], elsewhere.train_epoch()[0]
    assert dataclasses.asdict(first) == dataclasses.asdict(second)
    assert torch.equal(undisturbed.parameters, elsewhere.parameters)


def test_a_diverged_lane_is_reported_and_harms_no_neighbour(pool: draws.ImagePool) -> None:
    """An absurd learning rate ends in NaN in its own lane alone."""
    lanes = population_of(pool, "simple", 2)
    lanes.start(0, task(pool, {**MIXED[0], "learning_rate": 1e30}, seed=1))
    lanes.start(1, task(pool, MIXED[0], seed=2))
    healthy = population_of(pool, "simple", 2)
    healthy.start(0, task(pool, MIXED[0], seed=1))
    healthy.start(1, task(pool, MIXED[0], seed=2))
    for _ in range(2):
        reports, others = lanes.train_epoch(), healthy.train_epoch()
    assert [r.diverged for r in reports] == [True, False]
    assert reports[1] == others[1]


@pytest.mark.parametrize("width", [1, 3])
def test_a_lane_that_raises_harms_no_neighbour(pool: draws.ImagePool, width: int) -> None:
    """The others train the epoch once and are reported; the one that raises stays where it was."""
    healthy, lanes = (population_of(pool, "ws-aux", 3, dtype=torch.float64) for _ in range(2))
    tasks = [task(pool, MIXED[0], seed=seed) for seed in range(3)]
    no_digit = dataclasses.replace(tasks[1].training, digit=torch.full_like(tasks[1].training.digit, 12))
    for lane, one in enumerate(tasks):
        healthy.start(lane, one)
        lanes.start(lane, one if lane != 1 else dataclasses.replace(one, training=no_digit))
    lanes.width = width
    with pytest.raises(population.LanesFailed, match="lane 1: Traceback") as failed:
        lanes.train_epoch()
    assert list(failed.value.errors) == [1]
    assert [(report.lane, report.epoch) for report in failed.value.reports] == [(0, 1), (2, 1)]
    assert [lanes.state(lane).epoch for lane in range(3)] == [1, 0, 1]
    healthy.train_epoch()
    for lane in (0, 2):
        torch.testing.assert_close(lanes.parameters[lane], healthy.parameters[lane], rtol=1e-8, atol=1e-12)
    lanes.stop(1)
    assert [report.epoch for report in lanes.train_epoch()] == [2, 2]


def test_reports_say_when_a_task_is_done(pool: draws.ImagePool) -> None:
    """`last` comes with the task's last epoch, and a stopped lane reports no more."""
    lanes = population_of(pool, "simple", 2)
    lanes.start(0, task(pool, MIXED[0], seed=1, epochs=2))
    assert [r.last for r in lanes.train_epoch()] == [False]
    assert [(r.last, r.epoch) for r in lanes.train_epoch()] == [(True, 2)]
    lanes.stop(0)
    assert lanes.free == [0, 1]
    assert lanes.train_epoch() == []


def test_the_parameter_counts_are_the_tables() -> None:
    """58,380 parameters for simple, 56,470 for the two others."""
    counts = {name: sum(p.numel() for p in make().parameters()) for name, make in models.ARCHITECTURES.items()}
    assert counts == {"simple": 58_380, "ws": 56_470, "ws-aux": 56_470}


def test_running_statistics_are_refused() -> None:
    """BatchNorm's running statistics belong to no lane: the refusal names the module."""
    with pytest.raises(CannotStack, match="BatchNorm1d"):
        stack(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))


def test_an_epoch_given_up_leaves_no_trace(pool: draws.ImagePool) -> None:
    """Stopped between two steps, nothing is reported and nothing has changed; trained again, it is the same epoch."""
    alone = task(pool, MIXED[0], seed=9)
    disturbed, undisturbed = population_of(pool, "ws", 2), population_of(pool, "ws", 2)
    for lanes in (disturbed, undisturbed):
        lanes.start(1, alone)
    before = disturbed.parameters.clone()
    answers = iter([False] * 5 + [True])
    assert disturbed.train_epoch(stop=lambda: next(answers)) == []
    assert torch.equal(disturbed.parameters, before)
    assert disturbed.train_epoch() == undisturbed.train_epoch()
    assert torch.equal(disturbed.parameters, undisturbed.parameters)


OUT_OF_MEMORY = """
import resource, torch
from pathlib import Path
from hpo.digits import draws
from hpo.training.population import Task
from tests.support.training import digit_population

torch.set_num_threads(1)
pool = draws.ImagePool(name="A", images=torch.rand(300, 14, 14), labels=torch.arange(300) % 10)
table, left = draws.draw_training(pool, 0, 50)
validation = draws.draw_validation(pool, left, 0, 100)
params = {"learning_rate": 1e-3, "weight_decay": 1e-4, "dropout": 0.2, "aux_weight": 1.0, "main_weight": 1.0}

def population(lanes):
    made = digit_population("ws-aux", lanes, pool, samples=900, batch=300, dtype=torch.float64)
    for lane in range(8):
        made.start(lane, Task(key=lane, params=params, seed=lane, epochs=2, training=table, validation=validation))
    return made

warm = digit_population("ws-aux", 1, pool, samples=900, batch=300, dtype=torch.float64)
warm.start(0, Task(key=0, params=params, seed=0, epochs=1, training=table, validation=validation))
warm.train_epoch()  # what a process needs once is there before the limit
small = population(9)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20, resource.RLIM_INFINITY))
reports = small.train_epoch()
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert 1 <= small.width < 8, small.width
assert small.free == [], small.free  # the ninth lane is idle, but there is no room for it
assert [r.lane for r in reports] == list(range(8)), reports
large = population(8)
others = large.train_epoch()
assert large.width == 8
torch.testing.assert_close(small.parameters[:8], large.parameters, rtol=1e-7, atol=1e-10)
assert [r.validation["accuracy"] for r in reports] == [r.validation["accuracy"] for r in others]
print("width", small.width)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the process's memory as Linux does")
def test_out_of_memory_halves_the_width_and_keeps_every_trial() -> None:
    """A real allocation fails in the middle of an epoch: it is trained in more parts, and the numbers are the same."""
    plain = {**os.environ, "HPO_KERNELS": "off"}  # which needs more memory
    command = [sys.executable, "-c", OUT_OF_MEMORY]
    done = subprocess.run(command, env=plain, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("width ")
