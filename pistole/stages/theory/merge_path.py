"""Theory check ``merge_path``: is PISTOLE's path flatter than vanilla's, as the paper says?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pistole.method.ball import layer_variances
from pistole.params import Params
from pistole.progress import counting
from pistole.seeds import derive
from pistole.stages.composing import read_ingredients
from pistole.stages.losses import Objective
from pistole.stages.runtime import attack_budget, classifier, device_of
from pistole.stages.slices import read_slice
from pistole.stages.theory import read_grid
from pistole.theory.curvature import hessian_operator
from pistole.theory.path import distance
from pistole.theory.path_summary import LOSSES, Point, Setting, summarise
from pistole.theory.sharpness import average_sharpness, weighted_traces
from pistole.theory.spectrum import extreme_eigenvalues

Tensors = dict[str, Tensor]
Row = dict[str, Any]
RESAMPLES = 2000
PARTS = 16  # of the images: independent values behind an interval


def check(params: Params, artifacts: Path) -> tuple[list[Row], Row]:
    """Measure the curvature of both losses along the merge path of every method.

    All models share the images, their parts, the probes and the attack's starts, so that their
    differences are free of most of the chance (docs/method.md E.3).

    Args:
        params: ``theory.merge_path``, ``stability``, ``merge.rescale`` and
            ``attack.calibration`` are read.
        artifacts: folder of all artifacts.

    Returns:
        Rows per method, lambda and loss, and the summary.
    """
    device = device_of(params)
    base, vectors = artifacts / "base", artifacts / "vectors"
    knobs = params.theory.merge_path
    images = read_slice(artifacts / "data" / params.data.finetune, "measure", knobs.samples)
    objective = Objective(
        classifier(base, images.dataset, device), images, params.stability.batch_size
    )
    held_out = read_grid(artifacts / "select/grid.csv")
    seed = derive(params.seed, "theory", "merge_path")
    points: list[Point] = []
    with counting("theory merge_path", len(knobs.methods) * len(knobs.lambdas)) as advance:
        for method in knobs.methods:
            ingredients = read_ingredients(
                params,
                method,
                base,
                vectors / "natural.safetensors",
                vectors / "robust.safetensors",
                artifacts / "masks",
            )
            for lam in knobs.lambdas:
                merged = ingredients.compose(method, lam)
                theta = {name: value.to(device) for name, value in merged.items()}
                for loss in LOSSES:
                    pixels = objective.clean
                    if loss == "robust":
                        pixels = objective.attacked(
                            theta, attack_budget(params, "calibration"), seed
                        )
                    points.append(
                        Point(
                            method=method,
                            lam=lam,
                            loss=loss,
                            distance=distance(merged, ingredients.theta_0),
                            held_out=held_out.get((method, lam)),
                            **_curvature(params, objective, theta, pixels, seed),
                        )
                    )
                advance()
    about = Setting(
        images=len(images),
        eta=params.stability.eta,
        probes=knobs.probes,
        pairs=knobs.pairs,
        iterations=knobs.iterations,
        resamples=RESAMPLES,
        seed=seed,
    )
    return [point.row() for point in points], summarise(points, about)


def _curvature(
    params: Params, objective: Objective, theta: Tensors, pixels: Tensor, seed: int
) -> dict[str, Any]:
    """Mean loss, weighted trace, average-case sharpness and spectrum at a model."""
    knobs, stability = params.theory.merge_path, params.stability
    place = {
        "eta": stability.eta,
        "dist": stability.pci.dist,
        "ball": stability.ball,
        "perturb_1d": stability.perturb_1d,
    }

    count = len(objective.images)
    parts = [torch.arange(count)[k::PARTS] for k in range(min(PARTS, count))]
    losses = [_mean_loss(objective, pixels, part) for part in parts]
    variances = layer_variances(theta, **place)
    return {
        "mean_loss": -objective.log_probs(theta, pixels).double().mean().item(),
        "trace": weighted_traces(losses, theta, variances, probes=knobs.probes, seed=seed),
        "sharpness": average_sharpness(losses, theta, pairs=knobs.pairs, seed=seed, **place),
        "spectrum": extreme_eigenvalues(
            _hessian(objective, theta, pixels), theta, iterations=knobs.iterations, seed=seed
        ),
    }


def _mean_loss(objective: Objective, pixels: Tensor, part: Tensor) -> Callable[[Tensors], Tensor]:
    # float64 from the single losses on: their small changes would drown in an fp32 mean.
    return lambda theta: -objective.log_prob(theta, pixels, part).double().mean()


def _hessian(objective: Objective, theta: Tensors, pixels: Tensor) -> Callable[[Tensors], Tensors]:
    """The Hessian of the mean loss over all images as v -> H v."""
    batches = list(objective.batches())
    count = len(objective.images)

    def part(batch: Tensor) -> Callable[[Tensors], Tensors]:
        return hessian_operator(
            lambda point: -objective.log_prob(point, pixels, batch).sum() / count, theta
        )

    if len(batches) == 1:
        return part(batches[0])  # one graph for all products

    def product(v: Tensors) -> Tensors:
        # One graph at a time: batches exist because memory does not hold two.
        total = part(batches[0])(v)
        for batch in batches[1:]:
            for name, value in part(batch)(v).items():
                total[name] = total[name] + value
        return total

    return product
