"""Verdicts and sentences of the contraction check, from its table alone (docs/method.md E.1)."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from pistole.method.masks import MaskSettings
from pistole.theory.interference_claims import (
    above,
    as_proven,
    below,
    cap_directions,
    cap_verdict,
    curves,
    identity_error,
    jointly,
    log_convex,
    never_rises,
)
from pistole.theory.interference_table import ROUNDING, Row

CLAIM = (
    "The masks shrink the first-order interference envelope by exactly rho_w <= 1, which never "
    "rises with kappa, is log-convex in kappa, and never falls as gamma rises (Theorem 1)"
)
DECIDED = {"holds": "holds", "fails": "fails", "undecided": "stays undecided"}

BROKEN = {
    "falls_in_kappa": "rho_w rises with kappa somewhere",
    "log_convex_in_kappa": "log rho_w is not convex in kappa somewhere",
    "grows_with_gamma": "rho_w falls as gamma rises somewhere",
    "bound_holds": "the mix of both vectors exceeds its bound",
}
INTERVALS = ("selectivity", "selectivity_permuted", "selectivity_gain")
LOSSES = ("masked", "unmasked", "uniform", "self", "merged", "masked_minus_uniform")


@dataclass(frozen=True)
class Setting:
    """What the run measured with.

    Attributes:
        images: size of the measure slice.
        resamples: bootstrap resamples.
        variant: name of the scores.
        masks: settings of the run's own masks.
        lam: lambda of the merged model.
    """

    images: int
    resamples: int
    variant: str
    masks: MaskSettings
    lam: float


def summarise(rows: list[Row], setting: Setting) -> Row:
    """Judge every claim.

    Args:
        rows: the table.
        setting: what it was measured with.

    Returns:
        Claim, measurement, verdict and statement of Theorem 1 as stated; then the same, under
        their own names, of the cap, the proposition, the selectivity and the true loss change.
    """
    masks = setting.masks
    return {
        "claim": CLAIM,
        "measurement": f"{setting.images} images that the scores never saw; robust gradient on "
        "the natural vector and natural gradient on the robust vector, each at its source, at the "
        f"base and at the merged model (lambda {setting.lam:g}); masks of the {setting.variant} "
        f"scores, gamma {masks.gamma:g}, kappa {masks.kappa:g}, cap {masks.cap_mode} at q "
        f"{masks.q:g}; intervals of S and rho_w by {setting.resamples} bootstrap resamples",
        **_theorem(rows),
        "lambda": setting.lam,
        **_cap(_of(rows, "cap")),
        **_proposition(_of(rows, "proposition")),
        **_selectivity(rows),
        **_loss(_of(rows, "loss")),
    }


def _of(rows: Sequence[Row], grid: str, **wanted: object) -> list[Row]:
    wanted["grid"] = grid
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _measured(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["estimate"] is not None]


def _place(row: Row) -> str:
    return f"{row['gradient']} at {row['point']}"


def _column(rows: Sequence[Row], name: str) -> Row:
    return {_place(row): row[name] for row in rows}


def _ends(rows: Sequence[Row]) -> Row:
    """The intervals by place."""
    return {_place(row): [row["low"], row["high"]] for row in rows}


def _span(rows: Sequence[Row]) -> str:
    """All estimates and their intervals, as one range each."""
    found = _measured(rows)
    if not found:
        return "not defined"
    low, high = (f(row["estimate"] for row in found) for f in (min, max))
    ends = min(row["low"] for row in found), max(row["high"] for row in found)
    return (
        f"{low:.3f} to {high:.3f} over {len(found)} places (95% intervals within {ends[0]:.3f} to "
        f"{ends[1]:.3f})"
    )


def _theorem(rows: list[Row]) -> Row:
    grid, both = _of(rows, "kappa"), _of(rows, "lambda")
    over_kappa, over_gamma = curves(grid, "kappa", "gamma"), curves(grid, "gamma", "kappa")
    error = identity_error(rows)
    found = {
        "falls_in_kappa": all(never_rises([row["rho_w"] for row in c]) for c in over_kappa),
        "log_convex_in_kappa": all(log_convex(c) for c in over_kappa),
        "grows_with_gamma": all(
            never_rises([row["rho_w"] for row in reversed(c)]) for c in over_gamma
        ),
        "bound_holds": all(
            row["envelope_ratio"] <= row["bound"] * (1 + ROUNDING)
            for row in both
            if row["envelope_ratio"] is not None
        ),
    }
    broken = [words for key, words in BROKEN.items() if not found[key]]
    broken += ["A(M)/A(1) is not rho_w"] * (error > ROUNDING)
    verdict = ("fails" if broken else "holds") if over_kappa else "undecided"
    said = "; ".join(broken) or "every part of it is true at all points, gammas and kappas"
    if not over_kappa:
        said = "nothing interferes here, so there is nothing to shrink"
    own = _of(rows, "interval", quantity="rho_w")
    pooled = _of(rows, "layer", layer="all")
    return {
        "verdict": verdict,
        "statement": "Theorem 1 (the masks shrink the interference envelope by exactly rho_w, "
        f"falling and log-convex in kappa) {DECIDED[verdict]}: {said}; both sides of the equation "
        f"agree to {error:.0e} relative, and the run's masks leave rho_w = {_span(own)}",
        "identity_error": error,
        **found,
        "rho_w": _column(pooled, "rho_w"),
        "rho_w_ci95": _ends(own),
        "rho_max": _column(pooled, "rho_max"),
        "interference_ratio": _column(pooled, "interference_ratio"),
    }


def _cap(rows: list[Row]) -> Row:
    courses = cap_directions(rows)
    told = ", ".join(f"{mode} {course}" for mode, course in courses.items())
    proven = as_proven(courses)
    match = "as proven" if proven else "which contradicts the proof"
    return {
        "cap_direction": courses,
        "cap_verdicts": {mode: cap_verdict(course) for mode, course in courses.items()},
        "cap_as_proven": proven,
        "cap_statement": "That a tighter cap lowers rho depends on how the cap is read; rho_w as "
        f"q falls: {told} ({match}); score_clip, the literal reading, only gives a floor of "
        "retention",
    }


def _proposition(rows: list[Row]) -> Row:
    least = [row["selectivity"] for row in rows if row["selectivity"] is not None]
    verdict, told = "undecided", "no layer has an S"
    if least:
        verdict = "holds" if min(least) >= 1 - ROUNDING else "fails"
        told = f"the smallest S of a layer is {min(least):.4f} over all readings of the cap"
    return {
        "proposition_verdict": verdict,
        "proposition_statement": "That S >= 1 in every layer where the gradient is the score "
        f"itself {DECIDED[verdict]}: {told}",
    }


def _selectivity(rows: list[Row]) -> Row:
    parts = {name: _of(rows, "interval", quantity=name) for name in INTERVALS}
    own, permuted, gain = parts.values()
    verdict = jointly([above(own, 1.0), above(gain, 1.0)])
    layers = [row for row in _of(rows, "layer") if row["layer"] != "all"]
    alone = _medians(layers)
    within = f"{min(alone.values()):.3f} to {max(alone.values()):.3f}" if alone else "not defined"
    return {
        "selectivity_verdict": verdict,
        "selectivity_statement": "That the masks remove more interference than shrinking by the "
        f"same l1 norm, and than permuted masks, {DECIDED[verdict]}: S is {_span(own)}; S of "
        f"permuted masks is {_span(permuted)}, and {within} in the median layer, so what exceeds 1 "
        "there is owed to some layers being masked more than others; S over that of permuted "
        f"masks, which is owed to the choice of coordinates, is {_span(gain)}",
        **{name: _column(part, "estimate") for name, part in parts.items()},
        **{f"{name}_ci95": _ends(part) for name, part in parts.items()},
        "selectivity_permuted_median_layer": alone,
        "selective_layers": _column(_of(rows, "layer", layer="all"), "selective_layers"),
    }


def _medians(layers: Sequence[Row]) -> Row:
    """S of the permuted mask in the median layer, by place."""
    found: dict[str, list[float]] = {}
    for row in layers:
        if row["selectivity_permuted"] is not None:
            found.setdefault(_place(row), []).append(row["selectivity_permuted"])
    return {place: statistics.median(values) for place, values in found.items()}


def _loss(rows: list[Row]) -> Row:
    parts = {kind: [r for r in _measured(rows) if r["quantity"] == kind] for kind in LOSSES}
    masked, apart = parts["masked"], parts["masked_minus_uniform"]
    source = [row for row in apart if row["point"] == "source"]
    elsewhere = [row for row in apart if row["point"] != "source"]
    verdict = below(source, 0.0)
    told = "; ".join(_trial(row, parts) for row in source) or "not defined"
    better = sum(row["high"] < 0 for row in elsewhere)
    worse = sum(row["low"] > 0 for row in elsewhere)
    return {
        "loss_verdict": verdict,
        "loss_statement": "That a masked vector raises the true loss of the other source less than "
        f"uniform shrinking to the same l2 norm {DECIDED[verdict]}: {told}; at the base and the "
        f"merged model the masked vector leaves the lower loss in {better}, the higher one in "
        f"{worse} of {len(elsewhere)} cases clear of 0",
        **{f"loss_{kind}": _column(part, "estimate") for kind, part in parts.items()},
        "loss_masked_minus_uniform_ci95": _ends(apart),
        # Of a change that is not clear of 0 it would be a share of noise.
        "second_order_share": _column(
            [row for row in masked if row["low"] > 0 or row["high"] < 0], "second_order_share"
        ),
    }


def _trial(apart: Row, parts: dict[str, list[Row]]) -> str:
    """One place in words."""
    masked, uniform = (
        next(r for r in parts[kind] if _place(r) == _place(apart)) for kind in ("masked", "uniform")
    )
    return (
        f"{apart['gradient']} loss {masked['estimate']:+.3f} masked (first-order term "
        f"{masked['first_order']:+.3f}) and {uniform['estimate']:+.3f} uniform, difference "
        f"{apart['estimate']:+.3f} ({apart['low']:+.3f} to {apart['high']:+.3f})"
    )
