"""Exact gradients along a path, and its scores, of the small test classifier."""

from collections.abc import Iterator

import torch

from pistole.method.trajectory import VariantScores, trajectory_scores
from tests.unit.method_models import log_prob, samples

Params = dict[str, torch.Tensor]


class Point:
    """Exact micro-batch gradients of the test classifier's mean loss at one point."""

    def __init__(self, source: "Gradients", theta: Params) -> None:
        self.source, self.theta = source, theta

    def micro(self, half: int, weighted: bool) -> Iterator[tuple[int, Params]]:
        source = self.source
        weights = source.weights if weighted else torch.ones_like(source.weights)
        for chosen in torch.arange(half, len(weights), 2).split(source.size):
            yield len(chosen), source.mean(self.theta, weights, chosen)


class Gradients:
    """The points of a path; records where it was asked."""

    def __init__(self, weights: torch.Tensor | None = None, size: int = 4) -> None:
        self.x, self.y = samples(8)
        self.weights = torch.ones(8, dtype=torch.float64) if weights is None else weights
        self.size = size
        self.points: list[Params] = []

    def mean(self, theta: Params, weights: torch.Tensor, chosen: torch.Tensor) -> Params:
        def loss(point: Params) -> torch.Tensor:
            return -(weights * log_prob(self.x, self.y)(point))[chosen].mean()

        return torch.func.grad(loss)(theta)

    def half(self, theta: Params, weights: torch.Tensor, start: int) -> Params:
        return self.mean(theta, weights, torch.arange(start, 8, 2))

    def full(self, theta: Params, weights: torch.Tensor) -> Params:
        return self.mean(theta, weights, torch.arange(8))

    def __call__(self, step: int, theta: Params) -> Point:
        assert step == len(self.points)
        self.points.append({name: value.clone() for name, value in theta.items()})
        return Point(self, theta)


class Given:
    """A point whose two halves have given gradients, weighted or not."""

    def __init__(self, *halves: Params) -> None:
        self.halves = halves

    def micro(self, half: int, weighted: bool) -> Iterator[tuple[int, Params]]:
        del weighted
        yield 1, self.halves[half]


def copied(params: Params) -> Params:
    return {name: value.clone() for name, value in params.items()}


def path_scores(*args, **settings) -> dict[str, VariantScores]:
    """All variants, copied out of the working memory as they come."""
    return {
        found.variant: VariantScores(
            found.variant,
            copied(found.scores),
            (copied(found.halves[0]), copied(found.halves[1])),
        )
        for found in trajectory_scores(*args, **settings)
    }


def close(left: Params, right: Params) -> bool:
    return all(torch.allclose(left[name], right[name], rtol=1e-9, atol=1e-14) for name in left)
