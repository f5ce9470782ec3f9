"""Modules of any layers as lanes: against the plain loop of torch.optim.Adam, lane by lane.

Shapes: P lanes, S items, B items of a batch.
"""

import math
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpo.training import dropout, streams
from hpo.training.mapped import module_initialisation
from hpo.training.population import LaneState, Population, Task
from tests.support.networks import (
    BATCH,
    CLASSES,
    EPOCHS,
    ITEMS,
    KINDS,
    Attends,
    Branches,
    Examples,
    recipe_of,
    task_on,
)
from tests.support.training import parameters_of


def trained_plainly(make: Callable[[], nn.Module], task: Task, start: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The plain loop, on the streams that a lane has, from the module's own initialisation or these parameters."""
    model = make().to(torch.float64)
    start = start or module_initialisation(make, task.seed)
    model.load_state_dict(start, strict=False)  # tied parameters have one name
    hyper, step = task.params, 0
    adam = torch.optim.Adam(model.parameters(), lr=hyper["learning_rate"], weight_decay=hyper["weight_decay"])
    order_key, dropout_key = (torch.tensor([streams.key(task.seed, what)]) for what in ("order", "dropout"))
    x, y = task.training.x, task.training.y
    for epoch in range(EPOCHS):
        torch.manual_seed(streams.key(task.seed, f"generators, epoch {epoch}"))
        order = streams.permutations(streams.step_keys(order_key, torch.tensor([epoch])), streams.counters(ITEMS))[0]
        for batch in order.split(BATCH):
            if many := dropout.decisions(model, len(batch)):
                keys = streams.step_keys(dropout_key, torch.tensor([step]))
                at = streams.thresholds(torch.tensor([hyper["dropout"]]))
                masks = streams.keep_masks(keys, streams.mask_counters(many), at)[0]
                dropout.set_masks(model, masks.to(torch.float64), len(batch))
            adam.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            adam.step()
            step += 1
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")  # torch's, of its own encoder layer
def test_lanes_are_plain_trainings(kind: str) -> None:
    """Three lanes with hyperparameters, draws and initialisations of their own, whatever the layers."""
    make, shape = KINDS[kind]
    tasks = [task_on(shape, lane) for lane in range(3)]
    lanes = Population(recipe_of(make), 3, None, samples=ITEMS, batch=BATCH, dtype=torch.float64)
    for lane, one in enumerate(tasks):
        lanes.start(lane, one)
    for _ in range(EPOCHS):
        assert [report.lane for report in lanes.train_epoch()] == [0, 1, 2]
    for lane, one in enumerate(tasks):
        plain = trained_plainly(make, one)
        for name, values in parameters_of(lanes, lane).items():
            if name == "block.self_attn.in_proj_bias":
                continue  # the keys' has no gradient but rounding, and Adam makes steps of it
            torch.testing.assert_close(values, plain.get_parameter(name).detach(), rtol=1e-6, atol=1e-9, msg=name)
        buffers = {name: values[lane] for name, values in lanes.buffers.items()}
        for name, values in buffers.items():
            torch.testing.assert_close(values, plain.get_buffer(name), rtol=1e-6, atol=1e-9, msg=name)
        x = one.training.x[:7]
        outputs = lanes.predict(lanes.parameters[lane], Examples(x=x), buffers=buffers).outputs
        torch.testing.assert_close(outputs, plain.eval()(x).detach(), rtol=1e-6, atol=1e-8)


class Drops(nn.Module):
    """Drops by torch's generator inside its forward, where no layer shows it."""

    def __init__(self, bias: bool) -> None:
        """With a bias its layer has a stacked twin, without one it is mapped."""
        super().__init__()
        self.head = nn.Linear(4, CLASSES, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.head(x), 0.5, self.training)


def between(layer: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Linear(4, 8, bias=False), layer, nn.Linear(8, CLASSES))


APART: dict[str, tuple[Callable[[], nn.Module], str]] = {  # what several lanes cannot be run of, and the log's words
    "dropout": (between(nn.Dropout(0.5)), "Dropout (1): "),
    "alpha dropout": (between(nn.AlphaDropout(0.1)), "AlphaDropout (1): "),
    "random slopes": (between(nn.RReLU()), "RReLU (1): "),
    "dropout in a mapped forward": (lambda: Drops(False), "Drops (the module): "),
    "dropout in a stacked forward": (lambda: Drops(True), "Drops (the module): its forward draws from torch's"),
    "branches": (Branches, "Branches (the module): "),
}


@pytest.mark.parametrize("kind", APART)
def test_what_cannot_be_run_for_several_lanes_trains_one_at_a_time(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log names it once; each lane is the plain loop whose draws begin anew with each epoch, resumed or not."""
    make, words = APART[kind]
    lanes = Population(recipe_of(make), 3, None, samples=ITEMS, batch=BATCH, dtype=torch.float64)
    for lane in range(3):
        lanes.start(lane, task_on((4,), lane))
    starts = [parameters_of(lanes, lane) for lane in range(3)]
    before = torch.random.get_rng_state()
    for _ in range(EPOCHS):
        assert len(lanes.train_epoch()) == 3
    assert torch.equal(torch.random.get_rng_state(), before)
    assert lanes.width == 1
    (record,) = caplog.records
    assert record.message.startswith("lanes train one at a time from now on: the module cannot be run for several (")
    assert words in record.message
    for lane in range(3):
        plain = trained_plainly(make, task_on((4,), lane), starts[lane])
        for name, values in parameters_of(lanes, lane).items():
            torch.testing.assert_close(values, plain.get_parameter(name).detach(), rtol=1e-9, atol=1e-12)
        alone = Population(recipe_of(make), 1, None, samples=ITEMS, batch=BATCH, dtype=torch.float64)
        alone.start(0, task_on((4,), lane))
        alone.train_epoch()
        resumed = Population(recipe_of(make), 1, None, samples=ITEMS, batch=BATCH, dtype=torch.float64)
        resumed.start(0, task_on((4,), lane), alone.state(0))
        resumed.train_epoch()
        assert torch.equal(resumed.parameters[0], lanes.parameters[lane])
    assert len(caplog.records) == 1


def test_what_draws_when_it_is_measured_gives_the_same_again() -> None:
    """As a mean over dropout masks does, which one may want of a trained network."""

    class Draws(Drops):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.head(x), 0.5)

    lanes = Population(recipe_of(lambda: Draws(True)), 2, None, samples=ITEMS, batch=BATCH, dtype=torch.float64)
    lanes.start(0, task_on((4,), 0))
    lanes.start(1, task_on((4,), 1))
    lanes.train_epoch()
    items = Examples(x=task_on((4,), 0).training.x)
    torch.rand(1)
    outputs = [lanes.predict(lanes.parameters[0], items).outputs for _ in range(2)]
    assert torch.equal(*outputs)
    assert (outputs[0] == 0).any()


def test_without_chance_torchs_dropout_is_mapped() -> None:
    lanes = Population(recipe_of(between(nn.Dropout(0.0))), 2, None, samples=ITEMS, batch=BATCH, dtype=torch.float64)
    lanes.start(0, task_on((4,), 0))
    lanes.start(1, task_on((4,), 1))
    lanes.train_epoch()
    assert lanes.width == 2


def test_buffers_are_a_lanes_state() -> None:
    """A lane goes on elsewhere with its statistics, and an epoch that is abandoned has not changed them."""
    make, shape = KINDS["batch norm"]

    def started(lane: int, state: LaneState | None = None) -> Population:
        alone = Population(recipe_of(make), 1, None, samples=ITEMS, batch=BATCH, dtype=torch.float64)
        alone.start(0, task_on(shape, lane), state)
        return alone

    whole, begun = started(1), started(1)
    whole.train_epoch()
    begun.train_epoch()
    state = begun.state(0)
    assert float(state.buffers["1.num_batches_tracked"]) == math.ceil(ITEMS / BATCH)
    steps = iter([False, True])
    assert begun.train_epoch(stop=lambda: next(steps)) == []
    for name, values in begun.state(0).buffers.items():
        assert torch.equal(values, state.buffers[name])
    resumed = started(1, state)
    assert whole.train_epoch() == resumed.train_epoch()
    assert all(torch.equal(values, resumed.buffers[name]) for name, values in whole.buffers.items())
    assert not torch.equal(state.buffers["1.running_mean"], whole.buffers["1.running_mean"][0])


class Tied(nn.Module):
    """As small language models are: the head has the embedding's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(4, CLASSES, bias=False), nn.LayerNorm(4)
        self.head = nn.Linear(4, CLASSES, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(x)) + self.embed(x)
        return out


def test_tied_parameters_stay_tied() -> None:
    lanes = Population(recipe_of(Tied), 2, None, samples=ITEMS, batch=BATCH, dtype=torch.float64)
    for lane in range(2):
        lanes.start(lane, task_on((4,), lane))
    for _ in range(EPOCHS):
        lanes.train_epoch()
    assert list(parameters_of(lanes, 0)) == ["embed.weight", "norm.weight", "norm.bias"]
    for lane in range(2):
        plain = trained_plainly(Tied, task_on((4,), lane))
        assert isinstance(plain, Tied)
        torch.testing.assert_close(parameters_of(lanes, lane)["embed.weight"], plain.embed.weight.detach())


def test_initialisation_is_the_modules_own_and_leaves_torchs_generator() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (module_initialisation(Attends, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["place"], other["place"])
    assert float(first["place"].std()) == pytest.approx(0.02, rel=0.5)
    assert math.isclose(float(first["block.norm1.weight"].mean()), 1.0)
