"""Simulated robots."""
