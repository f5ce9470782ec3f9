"""What tests ask of a population, from its public attributes."""

from torch import Tensor

from hpo.training.population import Population


def parameters_of(population: Population, lane: int) -> dict[str, Tensor]:
    """A lane's parameters under the plain module's names."""
    views = population.layout.views(population.parameters[lane : lane + 1])
    return {name: values[0].clone() for name, values in views.items()}
