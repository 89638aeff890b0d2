"""Open_clip towers, the zero-shot head, and checkpoints of the visual tower."""
