"""DIAMOND: a diffusion model of the next camera frame, the global model of small visual worlds."""
