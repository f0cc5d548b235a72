"""DreamerV4: a latent transformer that imagines frames, the global model of ego-centric worlds."""
