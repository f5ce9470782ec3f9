"""What a recipe is written with, as users know it: `hpo.training.recipe` has it, where populations train by it."""

from hpo.training.recipe import SGD, Adam, AdamW, Cosine, Inputs, Recipe, Tensors, dropout

__all__ = ["SGD", "Adam", "AdamW", "Cosine", "Inputs", "Recipe", "Tensors", "dropout"]
