"""Benchmarks of the algorithm, each a script with its figures in docs/results."""
