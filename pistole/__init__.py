"""pistole: merge natural and robust CLIP task vectors with stability masks, reproducibly.

The functions on models in memory are those of :mod:`pistole.library`; they are imported when one is
first asked for, so that ``import pistole`` needs no torch.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# As text, and imported by text: the modules below the library import this package.
LIBRARY = (
    "Settings",
    "UserError",
    "ZeroShotClassifier",
    "merge",
    "select_lambda",
    "stability_scores",
    "task_vectors",
    "text_features",
)
__all__ = ["LIBRARY", "__version__", *LIBRARY]  # noqa: PLE0604 - LIBRARY holds names


def __getattr__(name: str) -> Any:
    """Import the library when one of its names is asked for.

    Args:
        name: of an attribute.

    Returns:
        The function or class.

    Raises:
        AttributeError: the package has no such name.
    """
    if name in LIBRARY:
        return getattr(importlib.import_module("pistole.library"), name)
    raise AttributeError(f"module 'pistole' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the names, those of the library too."""
    return sorted({*globals(), *LIBRARY})
