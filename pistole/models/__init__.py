"""Open_clip towers, the zero-shot head, and checkpoints of the visual tower."""

from pathlib import Path

EMBEDDED = Path(__file__).parent / "assets"  # the base that ships with the package
