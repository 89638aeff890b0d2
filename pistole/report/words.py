"""Sentences of the page that depend on the numbers."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from pistole.report.statistics import Interval
from pistole.report.tables import label, points, signed

REFERENCE_STEPS, REFERENCE_TARGETS = 100, 9  # docs/method.md D.2
RELIABLE = 0.5  # docs/method.md A.3.1
SAME = 1e-9  # round-off of a difference of accuracies
RIVALS = ("vanilla", "wise_ft")
NAMES = {"vanilla": "vanilla merging", "wise_ft": "WiSE-FT"}


def headline(metrics: dict[str, Any], leads: Mapping[str, Mapping[str, Interval]]) -> str:
    """Say in plain words what PISTOLE did compared with the two other merges.

    Args:
        metrics: content of ``report/metrics.json``.
        leads: model -> measure -> interval of PISTOLE's lead.

    Returns:
        Two or three sentences; each comparison says whether its interval holds zero.
    """
    own = metrics["models"].get("pistole")
    if own is None:
        return "PISTOLE is not among the evaluated models, so there is nothing to compare it with."
    text = (
        f"It is right on {points(own['clean_mean'])}% of clean and {points(own['robust_mean'])}% "
        f"of attacked images, Sum {points(own['sum'])}"
    )
    rivals = [name for name in RIVALS if name in leads]
    best = max(metrics["models"], key=lambda name: metrics["models"][name]["sum"])
    tail = "" if best == "pistole" else f" The row with the largest Sum is {label(best)}."
    if not rivals:
        return f"PISTOLE stands alone. {text}.{tail}"
    compared = " and ".join(f"{_verb(leads[name]['sum'])} {NAMES[name]}" for name in rivals)
    details = "; ".join(f"against {NAMES[name]} {_lead(leads[name])}" for name in rivals)
    return f"PISTOLE {compared}. {text}: {details}.{tail}"


def beyond_lambda(
    curves: Mapping[str, Sequence[Mapping[str, float]]],
) -> list[str]:
    """Compare whole curves, since a lead at one lambda may be no more than another lambda.

    Args:
        curves: ``frontier`` of ``report/metrics.json``: method -> its points.

    Returns:
        One clause per rival with a curve: how many of PISTOLE's points lie above the rival's line
        at the same clean accuracy, and by how much on average.
    """
    own, found = curves.get("pistole", ()), []
    for name in RIVALS:
        line = _best(curves.get(name, ()))
        if not line:
            continue
        gaps = [
            point["robust_mean"] - _height(line, point["clean_mean"])
            for point in own
            if line[0][0] <= point["clean_mean"] <= line[-1][0]
        ]
        if not gaps:
            found.append(
                f"the best points of {NAMES[name]} reach none of PISTOLE's clean accuracies"
            )
            continue
        above = sum(gap > SAME for gap in gaps)
        mean = sum(gaps) / len(gaps)
        found.append(
            f"against the best points of {NAMES[name]} at equal clean accuracy, {above} of "
            f"{len(gaps)} points of PISTOLE's line lie higher; the mean gap is {signed(mean)} "
            "robust points"
        )
    return found


def _best(curve: Sequence[Mapping[str, float]]) -> list[tuple[float, float]]:
    """Points that no other point beats, by clean accuracy: what a user would choose."""
    kept: list[tuple[float, float]] = []
    for clean, robust in sorted(((p["clean_mean"], p["robust_mean"]) for p in curve), reverse=True):
        if not kept or robust > kept[-1][1]:
            kept.append((clean, robust))
    return kept[::-1]


def _height(line: Sequence[tuple[float, float]], clean: float) -> float:
    """Robust accuracy of a curve at a clean accuracy, between its two nearest points."""
    for (left, low), (right, high) in pairwise(line):
        if left <= clean <= right:
            share = (clean - left) / (right - left) if right > left else 0.0
            return low + share * (high - low)
    return line[0][1]


def _lead(parts: Mapping[str, Interval]) -> str:
    total = parts["sum"]
    return (
        f"{signed(total.value)} points (clean {signed(parts['clean_mean'].value)}, robust "
        f"{signed(parts['robust_mean'].value)}), 95% interval of the Sum "
        f"{signed(total.low)} to {signed(total.high)}, "
        f"{'clear of zero' if total.side else 'which holds zero'}"
    )


def _verb(lead: Interval) -> str:
    if lead.value == lead.low == lead.high == 0:
        return "answers exactly as often right as"
    return {1: "beats", -1: "does worse than", 0: "cannot be told apart from"}[lead.side]


def weaknesses(attack: Mapping[str, Any]) -> list[str]:
    """List where the evaluation attack is weaker than the reference ensemble.

    Args:
        attack: ``attack.evaluate`` of the parameters.

    Returns:
        One clause per weakness; empty if there is none.
    """
    found = [
        f"{name} runs {attack[key]['steps']} iterations instead of {REFERENCE_STEPS}"
        for key, name in (("apgd_ce", "APGD-CE"), ("apgd_t", "APGD-T"))
        if attack[key]["steps"] < REFERENCE_STEPS
    ]
    targets = attack["apgd_t"]["targets"]
    if targets < REFERENCE_TARGETS:
        found.append(f"APGD-T tries {targets} target classes instead of {REFERENCE_TARGETS}")
    return found


def remedy(stability: Mapping[str, Mapping[str, Any]]) -> str:
    """Say what to do about unreliable scores, as the stage that makes them does.

    Args:
        stability: source -> summary of its scores; old ones do not name their statistic, which was
            ``abs_mean``.

    Returns:
        A clause.
    """
    statistics = {summary.get("score_stat", "abs_mean") for summary in stability.values()}
    if statistics == {"rms"}:
        return "raise slices.score"
    return "set stability.score_stat to rms"


def unreliable(stability: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Name the scores whose median split-half reliability is too low.

    Args:
        stability: source -> summary of its scores.

    Returns:
        Entries like ``natural / gism (0.31)``.
    """
    return [
        f"{source} / {variant} ({median:.2f})"
        for source, summary in stability.items()
        for variant, median in summary["reliability"].items()
        if median < RELIABLE
    ]


def origin(lineage: Mapping[str, Any]) -> str:
    """Say in a few words how a model came to be.

    Args:
        lineage: ``lineage`` of its evaluation.

    Returns:
        A clause such as ``merge pistole, λ = 0.3, scores pistole``.
    """
    if "method" in lineage:
        parts = [f"merge {label(lineage['method'])}"]
        if lineage["lambda"] is not None:  # a soup, or its authors' own setting
            parts.append(f"λ = {lineage['lambda']:g}")
        if lineage.get("variant"):
            parts.append(f"scores {lineage['variant']}")
        parts.append(
            "no rescaling" if lineage["rescale"] == "none" else f"rescale {lineage['rescale']}"
        )
        return ", ".join(parts)
    if "source" in lineage:
        if lineage.get("checkpoint"):
            return f"{lineage['source']} source, your checkpoint {lineage['checkpoint']}"
        return f"{lineage['source']} source, fine-tuned here ({lineage['objective']})"
    if lineage.get("record") == "model.json":
        about = lineage["description"]
        return f"base model {about['architecture']} ({about['activation']})"
    return "a model from outside the pipeline"
