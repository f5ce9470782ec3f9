"""Benchmarks: each module is one command (`python -m bench.training`), printing a table and writing JSON.

`bench.training` and `bench.gpu` need torch and this repository alone.
"""
