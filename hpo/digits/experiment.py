"""The digits as an experiment of the same kind as a user's, and the way to add further models to it.

`hpo run` without an experiment trains the three models by the same recipes, but many at once in the lanes of a
population, and stores their studies in the first format. Here every training is a user's: in a child, one lane.
Shapes: n pairs, C classes (2), D digit classes (10).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.digits.load import load
from hpo.digits.pools import ChildPermit, Digits, to_network_images
from hpo.digits.published import ACCURACIES
from hpo.errors import ExperimentError
from hpo.experiment.experiment import Data, Experiment
from hpo.experiment.items import Draw, Items
from hpo.experiment.metrics import Metric
from hpo.experiment.model import Model
from hpo.experiment.spaces import Float
from hpo.study.spec import MODELS, builtin_spec
from hpo.training.recipe import Recipe, Tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hpo.digits.draws import ImagePool, PairTable

FOLDER = "HPO_DATA_DIR"  # the variable that names a folder with MNIST's files, in children too


@dataclass(frozen=True)
class Pairs:
    """How many pairs a draw has, as [data] of a study may say."""

    training_pairs: int = 1000  # before augmentation: each gives 18 samples
    validation_pairs: int = 2000
    test_pairs: int = 1000


def images() -> Digits:
    """The bundled digits, or MNIST's files in the folder that HPO_DATA_DIR names."""
    folder = os.environ.get(FOLDER)
    return load(Path(folder) if folder else None)


# --- Draws --------------------------------------------------------------------------------------------------


def pool_a() -> "ImagePool":
    """The images to train and validate on."""
    from hpo.digits import lanes

    return lanes.pool_a(images())


def pool_b() -> "ImagePool":
    """The images of the final test; hpo calls it where an opening is on record, and nobody else does."""
    from hpo.digits.draws import ImagePool

    opened = images().open_pool_b(ChildPermit())
    return ImagePool.from_numpy("B", to_network_images(opened.images), opened.labels)


def draw(pool: "ImagePool", seeds: Draw) -> tuple[Items, Items]:
    """Training samples, shifted and swapped, and validation pairs, as the population's lanes have them."""
    from hpo.digits import draws

    training, left_over = draws.draw_training(pool, seeds.seed, seeds.options.training_pairs)
    validation = draws.draw_validation(pool, left_over, seeds.seed, seeds.options.validation_pairs)
    return items_of(pool, training), items_of(pool, validation)


def draw_test(pool: "ImagePool", seeds: Draw) -> Items:
    """Test pairs, no image twice."""
    from hpo.digits import draws

    return items_of(pool, draws.draw_test(pool, seeds.seed, seeds.options.test_pairs))


def items_of(pool: "ImagePool", pairs: "PairTable") -> Items:
    """Pairs: x (n, 2, 14, 14) in 0..1; y (n, 3), 1 where digit 1 <= digit 2, and the two digits; units: the images."""
    from hpo.digits.draws import shifted

    x = shifted(pool.images[pairs.image], pairs.shift)
    y = np.column_stack([pairs.target.numpy(), pairs.digit.numpy()])
    return Items(x.numpy(), y, pairs.image.numpy())


# --- Metrics ------------------------------------------------------------------------------------------------


def logits_of(outputs: Any) -> "Tensor":
    """Logits (n, C) of what a model gives: these, or a mapping that has them as "logits"."""
    import torch

    return torch.as_tensor(outputs["logits"] if isinstance(outputs, Mapping) else outputs)


def right(outputs: Any, y: Any) -> Any:
    """Which pairs are answered rightly: (n,)."""
    logits = logits_of(outputs).cpu().numpy()
    return (logits[:, 1] > logits[:, 0]) == (y[:, 0] == 1)


def cross_entropies(outputs: Any, y: Any) -> Any:
    """The comparison's cross entropy, (n,) nats."""
    import torch

    logits = logits_of(outputs)
    target = torch.as_tensor(y[:, 0], device=logits.device)
    return torch.nn.functional.cross_entropy(logits, target, reduction="none")


METRICS = (
    Metric("accuracy", right, diverged=0.5),
    Metric("cross_entropy", cross_entropies, diverged=40.0, maximize=False, unit="nats"),
)


# --- Models -------------------------------------------------------------------------------------------------


def network(name: str) -> "nn.Module":
    """A new network of this name."""
    from hpo.digits.models import ARCHITECTURES

    return ARCHITECTURES[name]()


def columns(items: Items) -> Mapping[str, Any]:
    """What the losses need: target (n,) and digit (n, 2)."""
    return {"target": items.y[:, 0], "digit": items.y[:, 1:]}


def comparison_loss(out: Any, of: Mapping[str, "Tensor"], hyper: Mapping[str, "Tensor"]) -> tuple["Tensor", "Tensor"]:
    """The comparison's cross entropy."""
    from hpo.digits import recipes

    return recipes.comparison_loss(out, of, hyper)


def auxiliary_loss(out: Any, of: Mapping[str, "Tensor"], hyper: Mapping[str, "Tensor"]) -> tuple["Tensor", "Tensor"]:
    """Both digits' cross entropies as well, weighted."""
    from hpo.digits import recipes

    return recipes.auxiliary_loss(out, of, hyper)


def outputs_of(out: Any) -> Mapping[str, "Tensor"]:
    """The comparison's logits."""
    return {"logits": out[0]}


def _model(name: str) -> Model:
    """One of the three, with the space and the paper's values of the study that ships with it."""
    spec = builtin_spec(name)
    loss = auxiliary_loss if "aux_weight" in spec.reference else comparison_loss
    return Model(
        Recipe(partial(network, name), Tensors, columns, loss, outputs_of, batch=spec.protocol.batch_size),
        space={name: Float(r.low, r.high, log=r.log) for name, r in spec.space.items()},
        reference=spec.reference,
        label=spec.reference_label,
        published={"accuracy": ACCURACIES[name].test_mean},
    )


def extended(models: Mapping[str, Model], name: str = "pairs") -> Experiment:
    """The digits with further models: pairs x (n, 2, 14, 14), targets y[:, 0] (n,), digits y[:, 1:] (n, 2).

    A model's predictor gives logits (n, 2). ExperimentError where a model has the name of one that is there.
    """
    for taken in models.keys() & set(MODELS):
        raise ExperimentError(f"experiment {name}: the digits have a model {taken} already; call yours otherwise")
    return Experiment(
        name,
        data=Data(digest=images().digest, a=pool_a, b=pool_b, about="pairs of handwritten digits"),
        metrics=METRICS,
        models={**{shipped: _model(shipped) for shipped in MODELS}, **models},
        draw=draw,
        draw_test=draw_test,
        options=Pairs,
        defaults={"budget": {"epochs": builtin_spec(MODELS[0]).budget.epochs}},
    )
