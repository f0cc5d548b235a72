"""The intent label: what the operator says about the play while it happens."""

PLAY, INTENT, MILESTONE = 0, 1, 2
