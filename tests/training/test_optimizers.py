"""Optimizers by lane against torch's own, with kernels and without, lane by lane."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hpo
from hpo.errors import ExperimentError
from hpo.experiment.items import Items
from hpo.experiment.recipes import needed_by
from hpo.training import initialisation, streams
from hpo.training.kernels import selection
from hpo.training.population import Population, Task
from hpo.training.recipe import Hyper, LossColumns, Optimizer
from tests.support.training import parameters_of

ITEMS, BATCH, EPOCHS, FEATURES = 70, 16, 3, 5
HYPER = {"rate": 3e-2, "decay": 0.1, "clip": 0.3, "momentum": 0.9, "warmup": 0.25, "floor": 0.1}
NAMED: dict[str, Any] = {"rate": "rate", "decay": "decay"}

Torchs = Callable[[nn.Module, Mapping[str, float]], torch.optim.Optimizer]


def torchs(kind: type[torch.optim.Optimizer], **options: Any) -> Torchs:
    """torch's optimizer; an option may be the name of a hyperparameter."""

    def made(model: nn.Module, p: Mapping[str, float]) -> torch.optim.Optimizer:
        values = {name: p[value] if isinstance(value, str) else value for name, value in options.items()}
        return kind(model.parameters(), lr=p["rate"], **values)  # type: ignore[arg-type, call-arg]  # every kind has it

    return made


def halved(done: Tensor, hyper: Hyper) -> Tensor:
    """A schedule of a user's own: half of the rate from half of the training on."""
    return torch.where(done < 0.5, 1.0, 0.5)


def cosine(warmup: float, floor: float, done: float) -> float:
    if done < warmup:
        return done / warmup
    return floor + (1 - floor) * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup))) / 2


def steady(p: Mapping[str, float], done: float) -> float:
    return 1.0


Factor = Callable[[Mapping[str, float], float], float]
KINDS: dict[str, tuple[Optimizer, Torchs, Factor]] = {
    "adam": (hpo.Adam(**NAMED), torchs(torch.optim.Adam, weight_decay="decay"), steady),
    "adam, clipped": (hpo.Adam(**NAMED, clip="clip"), torchs(torch.optim.Adam, weight_decay="decay"), steady),
    "adamw": (hpo.AdamW(**NAMED), torchs(torch.optim.AdamW, weight_decay="decay"), steady),
    "adamw, cosine": (
        hpo.AdamW(**NAMED, schedule=hpo.Cosine(warmup="warmup", floor="floor")),
        torchs(torch.optim.AdamW, weight_decay="decay"),
        lambda p, done: cosine(p["warmup"], p["floor"], done),
    ),
    "adam, cosine": (
        hpo.Adam(rate="rate", decay=None, schedule=hpo.Cosine()),
        torchs(torch.optim.Adam),
        lambda p, done: cosine(0, 0, done),
    ),
    "sgd": (hpo.SGD(rate="rate", decay=None), torchs(torch.optim.SGD), steady),
    "sgd, momentum": (
        hpo.SGD(**NAMED, momentum="momentum", clip=0.3),
        torchs(torch.optim.SGD, weight_decay="decay", momentum="momentum"),
        steady,
    ),
    "sgd, nesterov": (
        hpo.SGD(**NAMED, momentum=0.8, nesterov=True, schedule=halved),
        torchs(torch.optim.SGD, weight_decay="decay", momentum=0.8, nesterov=True),
        lambda p, done: 1.0 if done < 0.5 else 0.5,
    ),
}


def network(width: int = 6) -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, width), nn.SELU(), nn.Linear(width, 3))


def loss(out: Tensor, columns: LossColumns, hyper: Hyper) -> tuple[Tensor, Tensor]:
    each = -F.log_softmax(out, -1).gather(-1, columns["y"][..., None])[..., 0].mean(-1)
    return each, each


RECIPE = hpo.Recipe(network, hpo.Tensors, lambda items: {"y": items.y}, loss, lambda out: out, batch=BATCH)


def task_of(lane: int, epochs: int = EPOCHS) -> Task:
    """Every lane has hyperparameters of its own."""
    generator = torch.Generator().manual_seed(lane)
    x = 3 * torch.randn(ITEMS, FEATURES, generator=generator, dtype=torch.float64)
    params = {name: value * (1 - 0.2 * lane) for name, value in HYPER.items()}
    return Task(
        key=lane, params=params, seed=lane, epochs=epochs, training=Items(x, (x[:, 0] > 0).long()), validation=None
    )


def trained_plainly(task: Task, made: Torchs, factor: Factor, clip: float | None) -> nn.Module:
    model = network().to(torch.float64)
    model.load_state_dict(initialisation.initial_parameters(model, task.seed))
    optimizer, step = made(model, task.params), 0
    order_key = torch.tensor([streams.key(task.seed, "order")])
    for epoch in range(task.epochs):
        key = streams.step_keys(order_key, torch.tensor([epoch]))
        for batch in streams.permutations(key, streams.counters(ITEMS))[0].split(BATCH):
            done = step / (task.epochs * math.ceil(ITEMS / BATCH))
            for group in optimizer.param_groups:
                group["lr"] = task.params["rate"] * factor(task.params, done)
            optimizer.zero_grad()
            F.cross_entropy(model(task.training.x[batch]), task.training.y[batch]).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            step += 1
    return model


@pytest.fixture(params=["kernels", "plain torch"])
def with_kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """Either way, where this processor has kernels."""
    selection.switch(request.param == "kernels")
    yield
    selection.switch(True)


def population(optimizer: Optimizer, *tasks: Task) -> Population:
    recipe = replace(RECIPE, optimizer=optimizer)
    lanes = Population(recipe, len(tasks), None, samples=ITEMS, batch=BATCH, dtype=torch.float64)
    for lane, task in enumerate(tasks):
        lanes.start(lane, task)
    return lanes


@pytest.mark.usefixtures("with_kernels")
@pytest.mark.parametrize("kind", KINDS)
def test_lanes_are_trained_by_torchs_optimizer(kind: str) -> None:
    optimizer, made, factor = KINDS[kind]
    tasks = [task_of(lane) for lane in range(3)]
    lanes = population(optimizer, *tasks)
    for _ in range(EPOCHS):
        lanes.train_epoch()
    for lane, task in enumerate(tasks):
        clip = task.params[optimizer.clip] if isinstance(optimizer.clip, str) else optimizer.clip
        plain = trained_plainly(task, made, factor, clip)
        for name, values in parameters_of(lanes, lane).items():
            torch.testing.assert_close(values, plain.get_parameter(name).detach(), rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lane_is_the_same_alone_and_after_a_stop(kind: str) -> None:
    """Its moments are in its state, and its schedule counts its own epochs: neighbours are elsewhere in theirs."""
    optimizer = KINDS[kind][0]
    first, second = task_of(0), task_of(1, epochs=2)
    alone = population(optimizer, first)
    for _ in range(EPOCHS):
        alone.train_epoch()
    begun = population(optimizer, first)
    begun.train_epoch()
    resumed = Population(replace(RECIPE, optimizer=optimizer), 2, None, samples=ITEMS, batch=BATCH, dtype=torch.float64)
    resumed.start(0, second)
    resumed.start(1, first, begun.state(0))
    resumed.train_epoch()
    resumed.train_epoch()
    torch.testing.assert_close(resumed.parameters[1], alone.parameters[0], rtol=1e-10, atol=1e-13)


def test_what_an_optimizer_names_is_needed() -> None:
    """Numbers are none of the space's."""
    full = hpo.SGD(**NAMED, momentum="momentum", clip="clip", schedule=hpo.Cosine(warmup="warmup", floor=0.1))
    assert sorted(full.names) == ["clip", "decay", "momentum", "rate", "warmup"]
    assert hpo.AdamW(rate="lr", decay=None, clip=1.0).names == ("lr",)
    with pytest.raises(ValueError, match="needs the hyperparameter 'speed'"):
        population(hpo.SGD(rate="speed"), task_of(0))
    with pytest.raises(ExperimentError, match="needs 'momentum', which is not in the space"):
        hpo.Model(replace(RECIPE, optimizer=hpo.SGD(rate="rate", decay=None, momentum="momentum")), space={"rate": 0.1})


def test_a_structure_is_made_from_hyperparameters() -> None:
    """Texts too; what the module is made from is needed in every training."""

    def shaped(width: int, kind: str) -> nn.Module:
        return nn.Sequential(
            nn.Linear(FEATURES, width), {"selu": nn.SELU, "tanh": nn.Tanh}[kind](), nn.Linear(width, 3)
        )

    recipe = replace(RECIPE, module=shaped, structure=("width", "kind"), optimizer=hpo.SGD(rate="rate", decay=None))
    space: dict[str, Any] = {"rate": hpo.Float(0.01, 0.1), "width": hpo.Int(2, 8), "kind": hpo.Choice("selu", "tanh")}
    reference: dict[str, Any] = {"rate": 0.05, "width": 4, "kind": "tanh"}
    hpo.Model(recipe, space=space, reference=reference)
    assert needed_by(recipe, reference) == ("rate", "width", "kind")
    module = recipe.built({"width": 7, "kind": "selu"}).module()
    assert [tuple(p.shape) for p in module.parameters()] == [(7, FEATURES), (7,), (3, 7), (3,)]
    with pytest.raises(ExperimentError, match="'kind' has texts; name it in `structure`"):
        hpo.Model(replace(recipe, structure=("width",)), space=space, reference=reference)
    with pytest.raises(ExperimentError, match="needs 'width', which is not in the space"):
        hpo.Model(recipe, space={"rate": 0.1, "kind": "selu"})


WRONG: dict[str, dict[str, Any]] = {"optimizer": {"optimizer": "adam"}, "structure": {"structure": "width"}}


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: hpo.Adam(clip=0.0), "clip must be a number above 0"),
        (lambda: hpo.AdamW(clip=math.nan), "clip must be a number above 0"),
        (lambda: hpo.SGD(momentum=1.0), "momentum must be from 0 to below 1"),
        (lambda: hpo.SGD(nesterov=True), "nesterov needs a momentum"),
        (lambda: hpo.Cosine(warmup=2), "warmup must be a share from 0 to 1"),
        (lambda: hpo.Cosine(floor=-0.1), "floor must be a share"),
        (lambda: replace(RECIPE, **WRONG["optimizer"]), r"optimizer must be hpo.Adam\(\), .* not 'adam'"),
        (lambda: replace(RECIPE, **WRONG["structure"]), r'a tuple of names: \("width",\)'),
    ],
)
def test_what_is_no_optimizer_is_refused(made: Callable[[], Any], why: str) -> None:
    with pytest.raises((TypeError, ValueError), match=why):
        made()
