"""What the measurements say of Theorem 2: fits, plateau, verdict (docs/method.md E.2)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pistole.theory.correlation import fit
from pistole.theory.identities import Error
from pistole.theory.noisy_fit import Repeated, noisy_fit
from pistole.theory.plateau import Plateau, plateau

Row = dict[str, Any]
RANKED, SLOPES = 0.5, (0.8, 1.25)  # what counts as agreement
STEADY = 0.05  # largest disagreement of two radii on the plateau
# What fp32 leaves: second derivatives of a deep network, and log p of all classes.
CHAIN_RULE, ZERO_SUM = 1e-3, 1e-6


@dataclass(frozen=True)
class Measured:
    """Both sides of Theorem 2 on the images of one model and one kind of inputs.

    Attributes:
        model: its name.
        inputs: ``clean`` or ``adversarial``.
        p: probability of every image's class.
        forms: v^T H_c v / p at eta = 1 of every Hutchinson probe.
        pci: eta -> PCI of every antithetic pair.
        pair_form: Delta^T H_c Delta / p at eta = 1 along the first pair's Delta.
    """

    model: str
    inputs: str
    p: Float[Tensor, " n"]
    forms: Float[Tensor, "probes n"]
    pci: dict[float, Float[Tensor, "pairs n"]]
    pair_form: Float[Tensor, " n"]

    def at(self, eta: float) -> Repeated:
        """Return the theorem's prediction and the measured PCI at a radius.

        Args:
            eta: relative radius.

        Returns:
            Tr_w(H_c) / 2p by probe and PCI by pair.
        """
        return Repeated(self.forms * (eta**2 / 2), self.pci[eta])


@dataclass(frozen=True)
class Setting:
    """What was measured.

    Attributes:
        etas: relative radii, rising.
        method_eta: radius that the method uses.
        resamples: bootstrap resamples.
        seed: of the resampling.
        few: images per group that the identities were checked on.
        chain_rule: error of Tr(H_c) / p = ||grad l||^2 - Tr(H_l).
        zero_sum: error of sum_c p_c PCI_c = 0.
    """

    etas: tuple[float, ...]
    method_eta: float
    resamples: int
    seed: int
    few: int
    chain_rule: Error
    zero_sum: Error


def summarise(groups: Sequence[Measured], about: Setting) -> Row:
    """Fit measured PCI on the trace's prediction, on the plateau and at the method's radius.

    The theorem speaks of small radii, and rounding error of smaller ones: the plateau between
    decides. It is found from PCI alone (:func:`pistole.theory.plateau.plateau`).

    Args:
        groups: measurements per model and inputs.
        about: what was measured.

    Returns:
        Claim, measurement, verdict, statement and the numbers behind them.
    """
    flat = plateau(
        torch.cat(
            [
                torch.stack([g.pci[eta].double().mean(0) / eta**2 for eta in about.etas])
                for g in groups
            ],
            dim=1,
        ),
        tolerance=STEADY,
    )
    own = nearest(about.etas, about.method_eta)
    eta = own if flat is None else about.etas[flat.middle]
    by_eta = [{"eta": e, **numbers(groups, e, about)} for e in about.etas]
    at = {row["eta"]: row for row in by_eta}
    verdict = at[eta]["verdict"] if flat is not None else "undecided"
    return at[eta] | {
        "claim": "PCI is half the weighted trace of the Hessian of p over p (Theorem 2)",
        "measurement": _measurement(groups, about),
        "verdict": verdict,
        "statement": _statement(at[eta], flat, about, verdict, at[own]),
        "plateau": _range(flat, about),
        "method_eta": own,
        "method_verdict": at[own]["verdict"],
        "identities": _identities(about),
        "by_eta": by_eta,
        "by_inputs": _split(groups, eta, about, lambda g: {"inputs": g.inputs}),
        "by_model": _split(groups, eta, about, lambda g: {"model": g.model}),
        "by_group": _split(groups, eta, about, lambda g: {"model": g.model, "inputs": g.inputs}),
        "by_sign": _by_sign(groups, eta, about),
    }


def nearest(etas: Sequence[float], eta: float) -> float:
    """Return the grid's radius nearest to another one, in log.

    Args:
        etas: the grid.
        eta: a radius.

    Returns:
        One of the grid; of two equally near ones the first.
    """
    return min(etas, key=lambda e: abs(math.log(e / eta)))


def numbers(groups: Sequence[Measured], eta: float, about: Setting) -> Row:
    """Fit PCI on the prediction over some groups at one radius.

    Args:
        groups: measurements.
        eta: relative radius.
        about: resamples and seed are read.

    Returns:
        The fit with probes and pairs of their own directions, the slope of single pairs on the
        quadratic form along the same direction, and the verdict.
    """
    found = noisy_fit([g.at(eta) for g in groups], resamples=about.resamples, seed=about.seed)
    pair = fit(
        torch.cat([g.pair_form.double() * (eta**2 / 2) for g in groups]),
        torch.cat([g.pci[eta][0].double() for g in groups]),
        resamples=about.resamples,
        seed=about.seed,
    )
    row = {
        "n": found.n,
        "spearman": found.spearman,
        "spearman_ci95": list(found.spearman_ci95),
        "slope": found.slope,
        "slope_ci95": None if found.slope_ci95 is None else list(found.slope_ci95),
        "r2": found.r2,
        "within_two_errors": found.within_two_errors,
        "pair_slope": pair.slope,
        "pair_slope_ci95": list(pair.slope_ci95),
        "pair_r2": pair.r2,
    }
    return row | {"verdict": judge(found.spearman_ci95, found.slope_ci95, pair.slope_ci95)}


def judge(
    ranks: Sequence[float], slope: Sequence[float] | None, pair_slope: Sequence[float]
) -> str:
    """Decide from 95% intervals whether PCI is the trace (docs/method.md E.2).

    Args:
        ranks: of the rank correlation.
        slope: of the slope; None if it is not known.
        pair_slope: of the slope along the same directions, which has no sampling noise.

    Returns:
        ``fails`` if a slope lies beside 0.8 to 1.25 or the rank correlation below 0.5;
        ``holds`` if the rank correlation lies above 0.5, the pairs' slope within 0.8 to 1.25 and
        the other slope does not contradict; else ``undecided``.
    """
    beside = [s for s in (slope, pair_slope) if s is not None and not _overlap(s, SLOPES)]
    if beside or ranks[1] < RANKED:
        return "fails"
    exact = SLOPES[0] <= pair_slope[0] and pair_slope[1] <= SLOPES[1]
    return "holds" if slope is not None and exact and ranks[0] > RANKED else "undecided"


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] <= b[1] and b[0] <= a[1]


def _split(
    groups: Sequence[Measured], eta: float, about: Setting, key: Callable[[Measured], Row]
) -> list[Row]:
    """One fit per value of the key, in order of appearance."""
    parts: dict[tuple, list[Measured]] = {}
    for group in groups:
        parts.setdefault(tuple(key(group).items()), []).append(group)
    return [{**dict(name), **numbers(part, eta, about)} for name, part in parts.items()]


def _by_sign(groups: Sequence[Measured], eta: float, about: Setting) -> list[Row]:
    """One fit of the images with a positive and one of those with a negative trace."""
    rows = []
    for name, sign in (("positive", 1), ("negative", -1)):
        part = [_only(g, g.forms.mean(0) * sign > 0) for g in groups]
        if sum(len(g.p) for g in part) >= 3:
            rows.append({"trace": name, **numbers(part, eta, about)})
    return rows


def _only(group: Measured, chosen: Tensor) -> Measured:
    return Measured(
        group.model,
        group.inputs,
        group.p[chosen],
        group.forms[:, chosen],
        {eta: pci[:, chosen] for eta, pci in group.pci.items()},
        group.pair_form[chosen],
    )


def _identities(about: Setting) -> Row:
    chain, zero = about.chain_rule, about.zero_sum
    return {
        "images_per_group": about.few,
        "chain_rule_error": chain.relative,
        "chain_rule_tolerance": CHAIN_RULE,
        "chain_rule": "holds" if chain.relative <= CHAIN_RULE else "fails",
        "zero_sum_error": zero.absolute,
        "zero_sum_error_relative": zero.relative,
        "zero_sum_tolerance": ZERO_SUM,
        "zero_sum": "holds" if zero.absolute <= ZERO_SUM else "fails",
    }


def _range(flat: Plateau | None, about: Setting) -> Row | None:
    if flat is None:
        return None
    return {
        "from": about.etas[flat.first],
        "to": about.etas[flat.last],
        "disagreement": flat.disagreement,
    }


def _measurement(groups: Sequence[Measured], about: Setting) -> str:
    first = groups[0]
    pairs, probes = (len(values) for values in (first.pci[about.etas[0]], first.forms))
    models = len({g.model for g in groups})
    return (
        f"{len(first.p)} images that the scores never saw, clean and adversarial, at {models} "
        f"models; {pairs} antithetic pairs against {probes} Hutchinson probes of p, both with the "
        f"layers' own variances, at {len(about.etas)} radii. Intervals cover images, pairs and "
        "probes; the slope is freed of the probes' noise. The plateau is the longest run of "
        f"radii whose estimates differ by at most {STEADY:.0%} in the median over the images; its "
        "middle decides, since the theorem speaks of small radii and fp32 rounding hides smaller "
        "ones. It holds there if the rank correlation's 95% interval lies above "
        f"{RANKED}, the slope along the same directions within {SLOPES[0]} to {SLOPES[1]} and the "
        "slope with directions of its own does not contradict that range"
    )


def _statement(row: Row, flat: Plateau | None, about: Setting, verdict: str, own: Row) -> str:
    if flat is None:
        return (
            "Whether PCI is half the weighted Hessian trace over p is undecided: no two "
            "neighbouring radii agree, as where rounding drowns all of them or p has kinks "
            f"(ReLU); at the radius {own['eta']:g} of the grid, the nearest to the method's, the "
            f"rank correlation is {_told(own, 'spearman')}."
        )
    decided = {"holds": "holds", "fails": "fails", "undecided": "is undecided"}[verdict]
    return (
        f"That PCI is half the weighted Hessian trace over p {decided} on the plateau from "
        f"eta {about.etas[flat.first]:g} to {about.etas[flat.last]:g}: at {row['eta']:g}, over "
        f"{row['n']} pairs of image and model, the rank correlation is {_told(row, 'spearman')}, "
        f"the slope {_told(row, 'slope')}, and {_told(row, 'pair_slope')} along the same "
        f"directions; at the method's own eta ({own['eta']:g} in the grid) the verdict is "
        f"'{own['verdict']}'."
    )


def _told(row: Row, key: str) -> str:
    value, ends = row[key], row[f"{key}_ci95"]
    if value is None:
        return "unknown"
    return f"{value:.2f}" if ends is None else f"{value:.2f} (95% {ends[0]:.2f} to {ends[1]:.2f})"
