"""Theory check ``linear_frontier``: is the frontier of vanilla merging nearly a straight line?"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pistole.errors import UserError
from pistole.params import Params
from pistole.report.statistics import measures, resample
from pistole.stages.theory import read_grid
from pistole.theory.frontier import (
    Straightness,
    bend,
    distances,
    dominated,
    extreme,
    hypervolume,
    interval,
    straightness,
)

Row = dict[str, Any]
CLAIMED, LEADER = "vanilla", "pistole"
RIVALS = ("vanilla", "wise_ft")
STRAIGHT = 1.0  # accuracy points of distance from the chord that still count as straight
POINTS = 100  # accuracy points per unit of accuracy
TEST, HELD_OUT = "test", "held-out"


def check(params: Params, artifacts: Path) -> tuple[list[Row], Row]:
    """Measure how far every method's curve over lambda bends from the chord of its ends.

    Args:
        params: ``frontier``, ``theory.linear_frontier`` and ``seed`` are read.
        artifacts: folder of all artifacts; no model is run.

    Returns:
        Rows per set of images, method and lambda, and the summary.
    """
    methods = params.frontier.methods
    lambdas, outcomes = read_outcomes(artifacts / "frontier", methods)
    shape = (len(methods), len(lambdas), 3)
    curves = POINTS * measures(outcomes).reshape(shape)[..., :2]
    drawn = resample(outcomes, params.theory.linear_frontier.resamples, params.seed)
    samples = POINTS * drawn.reshape(-1, *shape)[..., :2]
    rows = [
        row
        for i, name in enumerate(methods)
        for row in point_rows(TEST, name, lambdas, curves[i], samples[:, i])
    ]
    shapes = [
        curve_shape(TEST, name, lambdas, curves[i], samples[:, i]) for i, name in enumerate(methods)
    ]
    for name, (own, curve) in held_out_curves(artifacts / "select" / "grid.csv").items():
        rows += point_rows(HELD_OUT, name, own, curve)
        shapes.append(curve_shape(HELD_OUT, name, own, curve))
    images = sum(len(answers) for answers in outcomes.values())
    claimed = methods.index(CLAIMED)
    straight = straightness(curves[claimed], samples[:, claimed], within=STRAIGHT)
    compared = {
        "methods": shapes,
        "dominance": _dominance(methods, curves, samples),
        "hypervolume_lead": _leads(methods, curves, samples),
    }
    return rows, _summary(params, images, shapes, straight) | compared


def read_outcomes(
    folder: Path, methods: tuple[str, ...]
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Read what stage ``frontier`` found, image by image.

    Args:
        folder: with one folder per method.
        methods: whose curves to read.

    Returns:
        The values of lambda, and task -> bool ``[images, methods * lambdas, 2]``: right when
        clean, right under attack.

    Raises:
        UserError: a file is missing or of another run, or methods answered other images.
    """
    found: dict[str, list[np.ndarray]] = {}
    asked: dict[str, tuple[list[float], list[str]]] = {}
    for method in methods:
        path = folder / method / "outcomes.parquet"
        if not path.is_file():
            raise UserError(f"{path} does not exist: run stage frontier@{method}")
        table = pq.read_table(path)
        for task in pc.unique(table["dataset"]).to_pylist():
            answers, question = _answers(table.filter(pc.equal(table["dataset"], task)))
            if asked.setdefault(task, question) != question:
                raise UserError(
                    f"{path}: {task} has other images or lambdas than {methods[0]}: run stage "
                    f"frontier@{method} again"
                )
            found.setdefault(task, []).append(answers)
    if any(len(parts) != len(methods) for parts in found.values()):
        raise UserError(f"{folder}: methods answered other tasks: run stage frontier again")
    lambdas = next(iter(asked.values()))[0]
    return lambdas, {task: np.concatenate(parts, axis=1) for task, parts in found.items()}


def _answers(table: pa.Table) -> tuple[np.ndarray, tuple[list[float], list[str]]]:
    """Answers ``[images, lambdas, 2]`` of one task, and which images and lambdas these are."""
    lambdas = sorted(pc.unique(table["lambda"]).to_pylist())
    columns, ids = [], []
    for lam in lambdas:
        part = table.filter(pc.equal(table["lambda"], lam)).sort_by("id")
        clean, robust = (
            part[name].fill_null(False).to_numpy() for name in ("clean_correct", "robust_correct")
        )
        columns.append(np.stack([clean, clean & robust], axis=1))
        ids.append(part["id"].to_pylist())
    if any(own != ids[0] for own in ids):
        raise UserError("a frontier's lambdas answered different images: run stage frontier again")
    return np.stack(columns, axis=1).astype(bool), (lambdas, ids[0])


def held_out_curves(path: Path) -> dict[str, tuple[list[float], np.ndarray]]:
    """Read the curves of the choice of lambda, which have no outcomes image by image.

    Args:
        path: ``grid.csv`` of stage ``select``.

    Returns:
        method -> its lambdas and its curve ``[lambdas, 2]`` in accuracy points.

    Raises:
        UserError: the file is missing.
    """
    grid = read_grid(path)
    curves = {}
    for name in dict.fromkeys(method for method, _ in grid):
        own = sorted((lam, *answers) for (method, lam), answers in grid.items() if method == name)
        curve = np.array(own)
        curves[name] = curve[:, 0].tolist(), POINTS * curve[:, 1:]
    return curves


def point_rows(
    images: str,
    method: str,
    lambdas: list[float],
    curve: np.ndarray,
    samples: np.ndarray | None = None,
) -> list[Row]:
    """Tell of every point how far it is from the chord.

    Args:
        images: which images.
        method: whose curve.
        lambdas: of the points.
        curve: ``[lambdas, 2]``, accuracy points.
        samples: resampled curves ``[B, lambdas, 2]``; None for no intervals.

    Returns:
        One row per lambda.
    """
    away = distances(curve)
    spread = None if samples is None else distances(samples)
    rows = []
    for i, lam in enumerate(lambdas):
        low, high = (None, None) if spread is None else _ends(spread[:, i])
        rows.append(
            {
                "images": images,
                "method": method,
                "lambda": lam,
                "clean": float(curve[i, 0]),
                "robust": float(curve[i, 1]),
                "distance": _finite(away[i]),
                "distance_low": low,
                "distance_high": high,
            }
        )
    return rows


def curve_shape(
    images: str,
    method: str,
    lambdas: list[float],
    curve: np.ndarray,
    samples: np.ndarray | None = None,
) -> Row:
    """Describe one curve as a whole (docs/method.md E.5).

    Args:
        images: which images.
        method: whose curve.
        lambdas: of the points.
        curve: ``[lambdas, 2]``, accuracy points.
        samples: resampled curves ``[B, lambdas, 2]``; None for no intervals.

    Returns:
        Bend in points squared, the largest distance from the chord in points, the hypervolume in
        percent of the unit square, each with its interval or without.
    """
    parts = {
        "bend": bend,
        "max_distance": lambda c: extreme(distances(c)),
        "hypervolume": lambda c: hypervolume(c) / POINTS,
    }
    shape: Row = {"images": images, "method": method, "lambdas": len(lambdas)}
    for name, measure in parts.items():
        low, high = (None, None) if samples is None else _ends(measure(samples))
        shape |= {name: _finite(measure(curve)), f"{name}_low": low, f"{name}_high": high}
    return shape


def _dominance(methods: tuple[str, ...], curves: np.ndarray, samples: np.ndarray) -> list[Row]:
    """How many points of each curve another curve dominates."""
    rows = []
    for i, name in enumerate(methods):
        for j, other in enumerate(methods):
            if i == j:
                continue
            low, high = _ends(dominated(samples[:, j], samples[:, i]).astype(float))
            count = int(dominated(curves[j], curves[i]))
            rows.append(
                {"method": name, "dominates_of": other, "points": count, "of": curves.shape[1]}
                | {"low": low, "high": high}
            )
    return rows


def _leads(methods: tuple[str, ...], curves: np.ndarray, samples: np.ndarray) -> Row:
    """Hypervolume of PISTOLE minus that of each rival that has a curve, paired."""
    if LEADER not in methods:
        return {}
    points, spread = hypervolume(curves) / POINTS, hypervolume(samples) / POINTS
    own = methods.index(LEADER)
    found = {}
    for rival in RIVALS:
        if rival in methods:
            k = methods.index(rival)
            low, high = _ends(spread[:, own] - spread[:, k])
            found[rival] = {"value": float(points[own] - points[k]), "low": low, "high": high}
    return found


def _summary(params: Params, images: int, shapes: list[Row], straight: Straightness) -> Row:
    own = next(s for s in shapes if (s["images"], s["method"]) == (TEST, CLAIMED))
    knobs = params.theory.linear_frontier
    return {
        "claim": "The frontier of vanilla merging is nearly a straight line between its ends",
        "measurement": f"{images} test images of all tasks, {own['lambdas']} values of lambda, "
        "APGD-CE alone; accuracies in points, each task weighing the same. The chord joins the "
        "ends of lambda's grid; bend is the signed area between curve and chord in points "
        "squared, positive on the side of the larger clean + robust sum; hypervolume is the "
        "dominated part of the unit square in percent. Intervals: 95%, paired bootstrap, "
        f"{knobs.resamples} resamples of the images within each task; they cover the choice of "
        "test images. Noise alone moves the largest distance away from 0 and raises hypervolumes, "
        "in the resamples too. The claim holds if "
        f"every inner point's interval lies within {STRAIGHT:g} point of the chord and fails if "
        "one lies outside after Bonferroni's correction. Curves of the held-out choice of lambda "
        "(PGD) have values without intervals",
        "verdict": straight.verdict,
        "statement": _statement(own, straight),
        "straight_within": STRAIGHT,
        "furthest_distance": straight.distance,
        "furthest_distance_ci95": None if straight.interval is None else list(straight.interval),
        "bend": own["bend"],
        "bend_ci95": [own["bend_low"], own["bend_high"]],
    }


def _statement(own: Row, straight: Straightness) -> str:
    if straight.distance is None or straight.interval is None:
        return (
            "Whether vanilla merging's frontier is nearly straight is undecided: the grid has no "
            "lambda between its ends, or both ends are the same point."
        )
    bound = f"within {STRAIGHT:g} accuracy point of its chord"
    says = {
        "holds": f"Vanilla merging's frontier lies {bound}",
        "fails": f"Vanilla merging's frontier does not lie {bound}",
        "undecided": f"Whether vanilla merging's frontier lies {bound} is undecided",
    }[straight.verdict]
    low, high = straight.interval
    return (
        f"{says}: its furthest point lies {straight.distance:+.1f} points from it (95% interval "
        f"{low:+.1f} to {high:+.1f}), and it bends by {own['bend']:+.0f} points squared "
        f"({own['bend_low']:+.0f} to {own['bend_high']:+.0f})."
    )


def _ends(values: np.ndarray) -> tuple[float | None, float | None]:
    return interval(values) or (None, None)


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
