"""Training of many small networks in lockstep: recipes, streams, stacked modules, population.

Imports torch alone, so that it runs on a bare GPU machine.
"""
