"""What tests ask of a population, from its public attributes."""

import torch
from torch import Tensor

from hpo.digits.draws import ImagePool
from hpo.digits.recipes import METRICS, RECIPES
from hpo.training.population import Population


def digit_population(
    model: str,
    lanes: int,
    pool: ImagePool,
    *,
    samples: int,
    batch: int,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Population:
    """Lanes of one of the three networks on the digits."""
    return Population(
        RECIPES[model], lanes, pool, samples=samples, batch=batch, metrics=METRICS, device=device, dtype=dtype
    )


def parameters_of(population: Population, lane: int) -> dict[str, Tensor]:
    """A lane's parameters under the plain module's names."""
    views = population.layout.views(population.parameters[lane : lane + 1])
    return {name: values[0].clone() for name, values in views.items()}
