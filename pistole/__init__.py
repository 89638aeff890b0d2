"""pistole: merge natural and robust CLIP task vectors with stability masks, reproducibly."""

__version__ = "0.1.0"
