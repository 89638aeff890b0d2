"""Tables over several seeds: what became of every test image, compared image by image."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pistole.report.statistics import MEASURES, Interval, Paired, measures

Outcomes = Mapping[str, np.ndarray]  # "task, seed N" -> bool [images, models, 2]
RIGHT = ["clean_correct", "robust_correct"]


def outcomes_of(project: Path, model: str) -> Path:
    """Name the table in which stage ``evaluate`` says what became of every test image.

    Args:
        project: its folder.
        model: its name.

    Returns:
        The file, which need not exist.
    """
    return project / "artifacts/evaluation" / model / "outcomes.parquet"


def read_outcomes(seeds: Sequence[Sequence[Path]]) -> dict[str, np.ndarray]:
    """Read what became of every test image.

    Args:
        seeds: per seed, one table of outcomes per model, in the same order.

    Returns:
        "task, seed N" -> bool ``[images, models, 2]``: right when clean, right under attack.
    """
    found = {}
    for seed, files in enumerate(seeds):
        frames = [pd.read_parquet(file) for file in files]
        for task in frames[0]["dataset"].unique():
            parts = [frame[frame["dataset"] == task] for frame in frames]
            found[f"{task}, seed {seed}"] = np.stack([p[RIGHT].to_numpy(bool) for p in parts], 1)
    return found


def per_seed(outcomes: Outcomes, seeds: int, first: int, other: int) -> str:
    """Tell one model's lead over another in the Sum, seed by seed.

    Args:
        outcomes: from :func:`read_outcomes`.
        seeds: their number.
        first: place of the model along the models' axis.
        other: place of the other.

    Returns:
        Points, such as ``+1.2, -0.3``.
    """
    found = []
    for seed in range(seeds):
        own = {key: value for key, value in outcomes.items() if key.endswith(f"seed {seed}")}
        points = measures(own)[:, MEASURES.index("sum")]
        found.append(f"{100 * (points[first] - points[other]):+.1f}")
    return ", ".join(found)


def signed(lead: Interval) -> str:
    """Write a difference of accuracies in points with its interval.

    Args:
        lead: difference, as fractions.

    Returns:
        Such as ``+1.5 [+0.6, +2.5]``.
    """
    return f"{100 * lead.value:+.1f} [{100 * lead.low:+.1f}, {100 * lead.high:+.1f}]"


def percent(paired: Paired, model: str) -> str:
    """Write clean, robust and Sum of a model, in percent, as cells of a table.

    Args:
        paired: from :func:`pistole.report.statistics.compare`.
        model: its name.

    Returns:
        Such as ``80.1 | 25.0 | 105.1``.
    """
    own = paired.mean([model])
    return " | ".join(f"{100 * own[key].value:.1f}" for key in MEASURES)
