"""Both ends of a Hessian's spectrum from Hessian-vector products (docs/method.md E.3)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal

from pistole.errors import UserError
from pistole.method.vectors import Params
from pistole.seeds import generator

TINY = 1e-6  # of the largest coefficient: what is left of a vector is rounding error


@dataclass(frozen=True)
class Spectrum:
    """The largest and the smallest eigenvalue of a symmetric operator.

    Attributes:
        top: the largest; never above the true one, up to rounding.
        top_residual: ||H q - top q|| of its unit vector q: an eigenvalue is that close.
        bottom: the smallest; never below the true one.
        bottom_residual: the same of its vector.
    """

    top: float
    top_residual: float
    bottom: float
    bottom_residual: float


def extreme_eigenvalues(
    product: Callable[[Params], Params], theta: Params, *, iterations: int, seed: int
) -> Spectrum:
    """Run Lanczos' recurrence, the power iteration that keeps what it has seen.

    H of a loss at fixed adversarial images is indefinite, and its eigenvalue of the largest
    magnitude is often negative: the power iteration would return that one. The k products
    H^j v of a power iteration span a space in which both ends are found (docs/method.md E.3).
    Only three vectors are held. Without re-orthogonalisation a converged eigenvalue may come
    twice, which changes neither end.

    Args:
        product: from a direction to H v.
        theta: gives names, shapes, dtype and device.
        iterations: number of products.
        seed: of the start.

    Returns:
        Both ends.

    Raises:
        UserError: iterations < 1.
    """
    if iterations < 1:
        raise UserError(f"iterations is {iterations}: give at least 1 product with the Hessian")
    source = generator(seed, "lanczos")
    q = {k: torch.randn(theta[k].shape, generator=source).to(theta[k]) for k in sorted(theta)}
    q, before = _scaled(q, 1 / _norm(q)), None
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(iterations):
        w = product(q)
        diagonal.append(_dot(w, q))
        w = {k: w[k] - diagonal[-1] * q[k] for k in q}
        if before is not None:
            w = {k: w[k] - beside[-1] * before[k] for k in q}
        beside.append(_norm(w))
        if beside[-1] <= TINY * max(map(abs, (*diagonal, *beside))):
            break  # the space is invariant: its eigenvalues are exact
        before, q = q, _scaled(w, 1 / beside[-1])
    values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside[:-1]))
    left = abs(beside[-1] * vectors[-1])
    return Spectrum(float(values[-1]), float(left[-1]), float(values[0]), float(left[0]))


def _dot(a: Params, b: Params) -> float:
    return sum(torch.sum(a[k] * b[k], dtype=torch.float64).item() for k in a)


def _norm(v: Params) -> float:
    return math.sqrt(_dot(v, v))


def _scaled(v: Params, factor: float) -> Params:
    return {k: value * factor for k, value in v.items()}
