"""Learning side of DMO, installed as ``dmo_training``: world models, rewards and policies."""
