"""Training of many small networks in lockstep: streams, data, models, population.

Imports torch and numpy alone, so that it runs on a bare GPU machine.
"""
