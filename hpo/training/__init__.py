"""Training of many small networks in lockstep: streams, draws, models, population.

Imports torch alone, so that it runs on a bare GPU machine.
"""
