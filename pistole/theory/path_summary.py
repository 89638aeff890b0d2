"""What the curvature along merge paths says of the paper's Figure 5 (docs/method.md E.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pistole.theory.contrast import Contrast, below, contrast, minimum_near, rank_verdict
from pistole.theory.correlation import fit
from pistole.theory.path import Path, Point, at_distance, lowest

Row = dict[str, Any]
LOSSES = ("natural", "robust")
SAMPLED = ("trace", "sharpness")  # measures with an interval
MEASURES = (*SAMPLED, "top_eigenvalue")
HEADLINE = "trace"  # decides
CLAIMED, REACH = 0.2, 0.1  # lambda of the minimum, and what is near it
OURS, RIVAL = "pistole", "vanilla"


@dataclass(frozen=True)
class Setting:
    """What was measured.

    Attributes:
        images: number of images.
        eta: relative radius behind the weights of the trace and the sharpness.
        probes: per part of the images.
        pairs: per part of the images.
        iterations: products with the Hessian behind its eigenvalues.
        resamples: bootstrap resamples of the rank correlation.
        seed: of the resampling.
    """

    images: int
    eta: float
    probes: int
    pairs: int
    iterations: int
    resamples: int
    seed: int


def summarise(points: Sequence[Point], about: Setting) -> Row:
    """Test the three claims on both losses; the weighted trace decides (docs/method.md E.3).

    Args:
        points: every method, lambda and loss; ``pistole`` is among the methods.
        about: what was measured.

    Returns:
        Claim, measurement, verdict, statement, sub-verdicts and the numbers behind them.
    """
    methods = list(dict.fromkeys(p.method for p in points))
    same = [_same_lambda(points, loss, key) for loss in LOSSES for key in SAMPLED]
    same = [row for row in same if row]
    minima = [_minimum(points, loss, key) for loss in LOSSES for key in MEASURES]
    ranks = [_ranks(points, loss, key, about) for loss in LOSSES for key in MEASURES]
    ranks = [row for row in ranks if row]
    apart = [
        _same_distance(points, loss, other) for loss in LOSSES for other in methods if other != OURS
    ]
    claims = {"below_vanilla": same, "minimum": minima, "ranks_with_sum": ranks}
    sub = {
        f"{claim} {row['loss']}": row["verdict"]
        for claim, found in claims.items()
        for row in found
        if row["measure"] == HEADLINE
    }
    robust = [p for p in points if p.loss == "robust"]
    return {
        "claim": "PISTOLE's merge path is flatter than vanilla's at every lambda, flattest near "
        f"lambda {CLAIMED}, and flatter models have the higher Sum (the paper's Figure 5)",
        "measurement": _measurement(points, about),
        "verdict": _together(list(sub.values()), complete=len(sub) == len(claims) * len(LOSSES)),
        "statement": _statement(same, minima, ranks, sub),
        "sub_verdicts": sub,
        "negative_traces": sum(p.trace.mean().item() < 0 for p in robust) / len(robust),
        "largest_residual": max(_residual(p) for p in points),
        **claims,
        "same_distance": apart,
    }


def _residual(point: Point) -> float:
    """How far the top eigenvalue may be off, relative to the spectrum's size."""
    ends = point.spectrum
    size = max(abs(ends.top), abs(ends.bottom))
    return ends.top_residual / size if size else 0.0


def _path(points: Sequence[Point], method: str, loss: str, measure: str) -> Path | None:
    """A method's measure over lambda; an eigenvalue is a single part."""
    ours = sorted((p for p in points if (p.method, p.loss) == (method, loss)), key=lambda p: p.lam)
    if not ours:
        return None
    values = [
        torch.tensor([p.spectrum.top], dtype=torch.float64)
        if measure == "top_eigenvalue"
        else getattr(p, measure).double()
        for p in ours
    ]
    return Path(tuple(p.lam for p in ours), tuple(p.distance for p in ours), torch.stack(values))


def _same_lambda(points: Sequence[Point], loss: str, measure: str) -> Row | None:
    ours, theirs = (_path(points, method, loss, measure) for method in (OURS, RIVAL))
    if ours is None or theirs is None:
        return None
    found = contrast(ours.values, theirs.values)
    return {
        "loss": loss,
        "measure": measure,
        "verdict": below(found),
        **_differences(found),
        "lambdas": list(ours.lambdas),
    }


def _differences(found: Contrast) -> Row:
    ends = list(zip(found.low, found.high, strict=True))
    bounded = all(map(_finite, (*found.low, *found.high)))
    return {
        "compared": len(ends),
        "below": sum(high < 0 for _, high in ends),
        "above": sum(low > 0 for low, _ in ends),
        "differences": list(found.mean),
        "ci95": [list(pair) for pair in ends] if bounded else None,
    }


def _finite(value: float) -> bool:
    return abs(value) < float("inf")


def _minimum(points: Sequence[Point], loss: str, measure: str) -> Row:
    path = _path(points, OURS, loss, measure)
    assert path is not None  # pistole is always among the methods
    return {
        "loss": loss,
        "measure": measure,
        "lambda": lowest(path),
        "verdict": minimum_near(path, CLAIMED, reach=REACH),
    }


def _ranks(points: Sequence[Point], loss: str, measure: str, about: Setting) -> Row | None:
    """Rank correlation of curvature and held-out Sum over all settings that were held out."""
    held = [p for p in points if p.loss == loss and p.held_out is not None]
    curvature = [
        p.spectrum.top if measure == "top_eigenvalue" else getattr(p, measure).mean().item()
        for p in held
    ]
    if len(held) < 3 or len(set(curvature)) == 1:
        return None
    x = torch.tensor(curvature, dtype=torch.float64)
    y = torch.tensor([sum(p.held_out or ()) for p in held], dtype=torch.float64)
    found = fit(x, y, resamples=about.resamples, seed=about.seed)
    return {
        "loss": loss,
        "measure": measure,
        "n": found.n,
        "spearman": found.spearman,
        "spearman_ci95": list(found.spearman_ci95),
        "verdict": rank_verdict(found.spearman_ci95),
    }


def _same_distance(points: Sequence[Point], loss: str, other: str) -> Row:
    """PISTOLE's models against another path where that is equally far from the base."""
    ours, theirs = (_path(points, method, loss, HEADLINE) for method in (OURS, other))
    assert ours is not None
    assert theirs is not None
    pairs = []
    for lam, far, values in zip(ours.lambdas, ours.distances, ours.values, strict=True):
        there = at_distance(theirs, far, near=lam)
        if there is not None:
            pairs.append((lam, values, there))
    if not pairs:
        return {"loss": loss, "other": other, "verdict": None, "compared": 0}
    found = contrast(*(torch.stack([pair[side] for pair in pairs]) for side in (1, 2)))
    return {
        "loss": loss,
        "other": other,
        "verdict": below(found),
        **_differences(found),
        "lambdas": [pair[0] for pair in pairs],
    }


def _together(verdicts: list[str], *, complete: bool) -> str:
    if "fails" in verdicts:
        return "fails"
    return "holds" if complete and set(verdicts) == {"holds"} else "undecided"


def _measurement(points: Sequence[Point], about: Setting) -> str:
    methods, lambdas = (len({getattr(p, key) for p in points}) for key in ("method", "lam"))
    return (
        f"{about.images} images that the scores never saw, {methods} methods at {lambdas} values "
        "of lambda. Hessian of the natural loss (clean images) and of the robust loss, whose "
        "adversarial images are made at each model and then kept fixed: the envelope theorem "
        "lets the gradient do so, not the Hessian, so the attack's own answer to a step in "
        f"weights is left out. Trace weighted by the layers' variances at eta {about.eta:g}, and "
        f"sharpness: the mean change of the loss in that ball; {about.probes} probes and "
        f"{about.pairs} antithetic pairs for each of {len(points[0].trace)} parts of the images, "
        "the same for all models, so that intervals cover directions and images. Both ends of "
        f"the spectrum from {about.iterations} products with the Hessian. The trace decides; "
        "differences carry simultaneous 95% intervals, the rank correlation one over the "
        "settings. Curvature is signed: below 0, lower is not flatter"
    )


def _statement(same: list[Row], minima: list[Row], ranks: list[Row], sub: dict[str, str]) -> str:
    parts = []
    for loss in LOSSES:
        own = {"loss": loss, "measure": HEADLINE}
        chosen = [_find(found, own) for found in (same, minima, ranks)]
        parts.append(f"{loss} loss: " + ", ".join(text for text in map(_told, chosen) if text))
    failing = [name for name, verdict in sub.items() if verdict == "fails"]
    open_ = [name for name, verdict in sub.items() if verdict == "undecided"]
    end = "fails" if failing else "is undecided" if open_ or not sub else "holds"
    return (
        "That PISTOLE's path is flatter than vanilla's everywhere, flattest near lambda "
        f"{CLAIMED}, with flatter models scoring higher, {end}; by the weighted Hessian trace: "
        + "; ".join(parts)
        + "."
    )


def _find(rows: list[Row], wanted: Row) -> Row | None:
    return next((row for row in rows if wanted.items() <= row.items()), None)


def _told(row: Row | None) -> str | None:
    if row is None:
        return None
    if "spearman" in row:
        low, high = row["spearman_ci95"]
        return f"rank correlation with the Sum {row['spearman']:.2f} (95% {low:.2f} to {high:.2f})"
    if "lambda" in row:
        return f"minimum at lambda {row['lambda']:g}"
    text = f"below at {row['below']} and above at {row['above']} of {row['compared']} lambdas"
    if row["ci95"] is None:
        return text
    i = max(range(row["compared"]), key=lambda k: row["differences"][k])
    (low, high), mean = row["ci95"][i], row["differences"][i]
    return (
        f"{text} (largest difference {mean:.2g}, 95% {low:.2g} to {high:.2g}, "
        f"at lambda {row['lambdas'][i]:g})"
    )
