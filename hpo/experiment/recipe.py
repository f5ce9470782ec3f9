"""What a recipe is written with, as users know it: `hpo.training.recipe` has it, where populations train by it."""

from hpo.training.recipe import Adam, Inputs, Recipe, Tensors, dropout

__all__ = ["Adam", "Inputs", "Recipe", "Tensors", "dropout"]
