"""Theory check ``agreement``: do clean and adversarial gradients agree less at larger radii?"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pistole.params import Params
from pistole.progress import counting
from pistole.robust.pgd import Budget
from pistole.seeds import derive
from pistole.stages.losses import Objective
from pistole.stages.runtime import classifier, device_of, tower
from pistole.stages.scratch import copies_in_files
from pistole.stages.slices import read_slice
from pistole.theory.agreement import Agreement, Grams, agreement, sign_counts, trend
from pistole.theory.blocks import (
    block_gradients,
    block_positions,
    gram,
    half_samples,
    interval,
    or_none,
)

Tensors = dict[str, Tensor]
Row = dict[str, Any]
MODELS = ("base", "natural", "robust")
HEADLINE = "base"
STEPS, STEP = 10, 1 / 4  # docs/method.md E.4: PGD-10 with alpha = eps / 4
HALVES = 1000
FEWEST_RADII = 3  # below, a rank correlation with the radius says nothing
LAST = ("eps", "cosine", "cosine_low", "cosine_high", "self_cosine", "disattenuated")


def check(params: Params, artifacts: Path) -> tuple[list[Row], Row]:
    """Compare the gradient of the clean loss with that of the adversarial loss, over the radius.

    Args:
        params: ``theory.agreement``, ``attack.calibration.init`` and ``stability.batch_size`` are
            read.
        artifacts: folder of all artifacts.

    Returns:
        Rows per model, layer (``all``: all of them together) and radius, and the summary.
    """
    device = device_of(params)
    base = artifacts / "base"
    images = read_slice(artifacts / "data" / params.data.finetune, "measure")
    model = classifier(base, images.dataset, device)
    objective = Objective(model, images, params.stability.batch_size)
    places = {"base": base} | {name: artifacts / "checkpoints" / name for name in MODELS[1:]}
    blocks = block_positions(len(images))
    radii = params.theory.agreement.radii
    halves = half_samples(len(blocks), HALVES, derive(params.seed, "theory", "agreement"))
    rows, trends = [], []
    with counting("theory agreement", len(MODELS) * len(radii)) as advance:
        for name in MODELS:
            theta = tower(places[name], base, device)
            with tempfile.TemporaryDirectory() as folder:
                clean = _gradients(objective, theta, objective.clean, blocks, folder)
                curves = []
                for eps in radii:
                    pixels = objective.clean
                    if eps > 0:
                        pixels = objective.attacked(theta, *_attack(params, name, eps))
                    found, curve = _at_radius(objective, theta, pixels, blocks, clean, halves)
                    rows += [{"model": name, "layer": layer, "eps": eps, **r} for layer, r in found]
                    curves.append(curve)
                    advance()
            own = [row for row in rows if row["model"] == name]
            trends.append({"model": name, **_trend(own, curves, radii)})
    return rows, summarise(rows, trends, params, images=len(blocks) * len(blocks[0]))


def _at_radius(
    objective: Objective,
    theta: Tensors,
    pixels: Tensor,
    blocks: list[Tensor],
    clean: list[Tensors],
    halves: Tensor,
) -> tuple[list[tuple[str, Row]], Agreement]:
    if pixels is objective.clean:
        return _layers(clean, clean, halves)
    with tempfile.TemporaryDirectory() as folder:
        return _layers(clean, _gradients(objective, theta, pixels, blocks, folder), halves)


def _attack(params: Params, model: str, eps: float) -> tuple[Budget, int]:
    # One start for all radii, so that the curve over them is not roughened by it.
    seed = derive(params.seed, "theory", "agreement", model)
    return Budget(eps, STEP * eps, STEPS, params.attack.calibration.init), seed


def _gradients(
    objective: Objective, theta: Tensors, pixels: Tensor, blocks: list[Tensor], folder: str
) -> list[Tensors]:
    keep = partial(copies_in_files, folder=Path(folder))
    return block_gradients(lambda b: objective.mean_gradient(theta, pixels, chosen=b), blocks, keep)


def _layers(
    clean: list[Tensors], attacked: list[Tensors], halves: Tensor
) -> tuple[list[tuple[str, Row]], Agreement]:
    """Rows of all layers at one radius, and the whole model's agreement on every half."""
    rows, total, signs = [], None, torch.zeros(3, 2, dtype=torch.int64)
    for name in clean[0]:
        c, a = (torch.stack([part[name] for part in side]) for side in (clean, attacked))
        grams = Grams(gram(c, c), gram(c, a), gram(a, a))
        counts = _signs(c, a)
        rows.append((name, _row(grams, counts)))
        total, signs = grams if total is None else total + grams, signs + counts
    assert total is not None  # a model has parameters
    return [("all", _row(total, signs, halves)), *rows], agreement(total, halves)


def _signs(clean: Tensor, attacked: Tensor) -> Tensor:
    """Sign counts of the whole gradients, of two halves of one, and across halves."""
    (c0, c1), (a0, a1) = ((x[::2].mean(0), x[1::2].mean(0)) for x in (clean, attacked))
    cross = torch.tensor([sign_counts(c0, a1), sign_counts(c1, a0)]).sum(0)
    same = torch.tensor([sign_counts(clean.mean(0), attacked.mean(0)), sign_counts(a0, a1)])
    return torch.cat([same, cross[None]])


def _row(grams: Grams, signs: Tensor, halves: Tensor | None = None) -> Row:
    """Columns of a layer; intervals, which take time, only of the whole model."""
    everything = torch.ones(1, len(grams.clean), dtype=torch.bool)
    found = agreement(grams, everything)
    spread = found if halves is None else agreement(grams, halves)
    row: Row = {}
    for name in ("cosine", "disattenuated"):
        value = or_none(getattr(found, name).item())
        known = halves is not None and value is not None
        ends = interval(getattr(spread, name), about=value) if known else None
        low, high = ends or (None, None)
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    shares = [equal / moved if moved else None for equal, moved in signs.tolist()]
    return row | {
        "self_cosine": or_none(found.self_cosine.item()),
        "cross_cosine": or_none(found.cross_cosine.item()),
        "sign_agreement": shares[0],
        "sign_self": shares[1],
        "sign_cross": shares[2],
        "norm": grams.attacked.mean().item() ** 0.5,
    }


def _trend(rows: list[Row], curves: list[Agreement], radii: tuple[float, ...]) -> Row:
    """Rank correlation of a whole model's agreement with the radius, and how many layers fall."""
    whole = [row for row in rows if row["layer"] == "all"]
    grid = torch.tensor(radii, dtype=torch.float64)
    found: Row = {"falling_layers": _falling(rows, grid)}
    for name in ("cosine", "disattenuated"):
        values = [torch.nan if row[name] is None else row[name] for row in whole]
        value = trend(torch.tensor([values], dtype=torch.float64), grid).item()
        spread = trend(torch.stack([getattr(curve, name) for curve in curves], dim=1), grid)
        ends = interval(spread) if len(radii) >= FEWEST_RADII else None
        found |= {name: or_none(value), f"{name}_ci95": None if ends is None else list(ends)}
    return found


def _falling(rows: list[Row], grid: Tensor) -> float | None:
    """Share of the layers whose raw cosine falls with the radius, by rank."""
    layers: dict[str, list[float]] = {}
    for row in rows:
        if row["layer"] != "all" and row["cosine"] is not None:
            layers.setdefault(row["layer"], []).append(row["cosine"])
    curves = [values for values in layers.values() if len(values) == len(grid)]
    if not curves:
        return None
    ranks = trend(torch.tensor(curves, dtype=torch.float64), grid)
    return (ranks < 0).double().mean().item()


def summarise(rows: list[Row], trends: list[Row], params: Params, *, images: int) -> Row:
    """Say whether the agreement falls with the radius at the base.

    Args:
        rows: rows of the table.
        trends: per model, the rank correlations with the radius and their intervals.
        params: ``theory.agreement`` is read.
        images: number of images.

    Returns:
        Claim, measurement, verdict, statement and the numbers behind them.
    """
    head = next(part for part in trends if part["model"] == HEADLINE)
    last = [row for row in rows if (row["model"], row["layer"]) == (HEADLINE, "all")][-1]
    raw, without = (_verdict(head[f"{name}_ci95"]) for name in ("cosine", "disattenuated"))
    verdict = "undecided" if raw == "holds" and without == "fails" else raw
    return {
        "claim": "The gradients of the clean and of the adversarial loss agree less, the larger "
        "the attack radius (the paper's Fig. 1)",
        "measurement": f"{images} images that the scores never saw; gradients at the base "
        f"(headline) and at both sources, PGD-{STEPS} with alpha = eps / 4 at each radius. "
        "Raw: cosine on the same images. Noise floor: cosine of one objective's gradients on two "
        "disjoint halves of the images. Disattenuated: cosine across halves over the geometric "
        "mean of both noise floors; it has no sampling noise and may exceed 1. Intervals: 95%, "
        f"from {HALVES} random halves of disjoint blocks of images, none where noise hides the "
        "direction of a gradient; they cover the choice of images, not the attack's start. It "
        "holds if the interval of the raw cosine's rank correlation with the radius lies below 0 "
        "and the disattenuated one's does not contradict it, and fails if none of it lies below 0",
        "verdict": verdict,
        "statement": _statement(head, last, verdict),
        "verdict_without_noise": without,
        "at_largest_radius": {key: last[key] for key in LAST},
        **{
            f"rank_correlation_{name}": {part["model"]: part[name] for part in trends}
            for name in ("cosine", "cosine_ci95", "disattenuated", "disattenuated_ci95")
        },
        "falling_layers": {part["model"]: part["falling_layers"] for part in trends},
    }


def _verdict(ends: list[float] | None) -> str:
    if ends is None:
        return "undecided"
    if ends[1] < 0:
        return "holds"
    return "fails" if ends[0] >= 0 else "undecided"


def _statement(head: Row, last: Row, verdict: str) -> str:
    if head["cosine_ci95"] is None or last["cosine_low"] is None:
        return (
            "Whether clean and adversarial gradients agree less at larger radii is undecided: "
            f"there are fewer than {FEWEST_RADII} radii, or the gradients vanish."
        )
    says = {"holds": "fall", "fails": "do not fall", "undecided": "cannot be said to fall"}
    low, high = head["cosine_ci95"]
    corrected = "has no value"
    if last["disattenuated"] is not None:
        corrected = f"is {last['disattenuated']:.2f}"
        corrected += (
            " (too noisy for an interval)"
            if last["disattenuated_low"] is None
            else f" ({last['disattenuated_low']:.2f} to {last['disattenuated_high']:.2f})"
        )
    return (
        f"At the base the cosines of clean and adversarial gradients {says[verdict]} with the "
        f"attack radius: rank correlation {head['cosine']:.2f} (95% interval {low:.2f} to "
        f"{high:.2f}); at {255 * last['eps']:g}/255 the cosine is {last['cosine']:.2f} "
        f"({last['cosine_low']:.2f} to {last['cosine_high']:.2f}), and corrected for sampling "
        f"noise it {corrected}."
    )
