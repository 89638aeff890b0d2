"""Curvature along a merge path (docs/method.md E.3)."""

import math
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from pistole.method.ball import group_norm
from pistole.method.vectors import Params, Real, require_same_layout
from pistole.theory.sharpness import standard_error
from pistole.theory.spectrum import Spectrum

Row = dict[str, Any]


@dataclass(frozen=True)
class Path:
    """A quantity measured on the same parts of the images at every lambda.

    Attributes:
        lambdas: rising.
        distances: ||theta(lambda) - theta_0||.
        values: of every part.
    """

    lambdas: tuple[float, ...]
    distances: tuple[float, ...]
    values: Float[Tensor, "points parts"]


@dataclass(frozen=True)
class Point:
    """One loss at one merged model.

    Attributes:
        method: how it was merged.
        lam: weight of the natural vector.
        loss: ``natural`` or ``robust``.
        distance: ||theta - theta_0||.
        mean_loss: over the images.
        trace: weighted trace of every part of the images.
        sharpness: average-case sharpness of every part.
        spectrum: both ends of the Hessian's spectrum.
        held_out: clean and robust accuracy on the slice ``select``, if measured there.
    """

    method: str
    lam: float
    loss: str
    distance: float
    mean_loss: float
    trace: Float[Tensor, " parts"]
    sharpness: Float[Tensor, " parts"]
    spectrum: Spectrum
    held_out: tuple[float, float] | None

    def row(self) -> Row:
        """Return the point as a row of the table.

        Returns:
            Cells by column; None where a single part has no error or nothing was held out.
        """
        clean, robust = self.held_out or (None, None)
        ends = self.spectrum
        return {
            "method": self.method,
            "lambda": self.lam,
            "loss": self.loss,
            "distance": self.distance,
            "mean_loss": self.mean_loss,
            "trace": self.trace.mean().item(),
            "trace_error": _error(self.trace),
            "sharpness": self.sharpness.mean().item(),
            "sharpness_error": _error(self.sharpness),
            "top_eigenvalue": ends.top,
            "top_residual": ends.top_residual,
            "bottom_eigenvalue": ends.bottom,
            "bottom_residual": ends.bottom_residual,
            "select_clean": clean,
            "select_robust": robust,
            "select_sum": None if clean is None or robust is None else clean + robust,
        }


def distance(theta: Params, theta_0: Params) -> float:
    """Return ||theta - theta_0|| over all tensors, summed in double precision.

    Args:
        theta: a model.
        theta_0: the base, same names and shapes.

    Returns:
        The Frobenius norm of the displacement.
    """
    require_same_layout(theta_0, theta, "merged model")
    return group_norm({k: theta[k] - theta_0[k] for k in theta_0}, list(theta_0))


def at_distance(path: Path, target: Real, *, near: Real) -> Float[Tensor, " parts"] | None:
    """Read a path where it is as far from the base as another model (docs/method.md E.3).

    Distance and values are taken as straight between two neighbouring lambdas. A path over lambda
    may have the same distance twice: the crossing whose lambda is nearest to ``near`` counts.

    Args:
        path: the path.
        target: distance from the base.
        near: lambda of the other model.

    Returns:
        The values there; None if the path never has that distance.
    """
    d, lam = path.distances, path.lambdas
    found = [(abs(lam[i] - near), path.values[i]) for i in range(len(d)) if d[i] == target]
    for i in range(len(d) - 1):
        if min(d[i], d[i + 1]) < target < max(d[i], d[i + 1]):
            share = (target - d[i]) / (d[i + 1] - d[i])
            there = lam[i] + share * (lam[i + 1] - lam[i])
            value = (1 - share) * path.values[i] + share * path.values[i + 1]
            found.append((abs(there - near), value))
    return min(found, key=lambda crossing: crossing[0])[1] if found else None


def lowest(path: Path) -> float:
    """Return the lambda at which a path's mean is lowest.

    Args:
        path: the path.

    Returns:
        One of its lambdas; of equal ones the smallest.
    """
    means = path.values.double().mean(1).tolist()
    return path.lambdas[means.index(min(means))]


def _error(values: Tensor) -> float | None:
    error = standard_error(values)
    return error if math.isfinite(error) else None
