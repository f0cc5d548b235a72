"""Reinforcement learning inside the world models: DMO-SAPO."""
