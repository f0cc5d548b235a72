"""Robot side of DMO: play data in, zero-shot policies out."""
