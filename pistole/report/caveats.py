"""What limits the verdicts of ablation and controls, in plain ASCII words."""

from collections.abc import Sequence

from pistole.report.statistics import LEVEL
from pistole.report.tables import label
from pistole.report.values import listed

UNEQUAL = ("random_score", "self_mask", "magnitude_mask")  # how much they mask is their own


def about_lambda(chosen: bool, own: float | None, unmatched: Sequence[str]) -> str:
    """Say which lambdas the rows have, and what that means for a comparison.

    Args:
        chosen: whether lambda was chosen on held-out images, or set.
        own: PISTOLE's lambda.
        unmatched: controls that have another one.

    Returns:
        A few sentences; empty without PISTOLE.
    """
    if own is None:
        return ""
    text = (
        f"The controls have PISTOLE's lambda = {own:g}, which was chosen for PISTOLE: with a "
        "lambda of their own they might do better. WiSE-FT, vanilla merging and each row of the "
        "ablation have one chosen for themselves."
        if chosen
        else f"lambda = {own:g} was set for all, not chosen."
    )
    if unmatched:
        text += f" Another lambda, so not comparable: {listed([label(n) for n in unmatched])}."
    if own in (0, 1):
        lost, kept = ("natural", "robust") if own == 0 else ("robust", "natural")
        text += (
            f" At lambda = {own:g} the {lost} vector and its mask play no part in PISTOLE: it is "
            f"the base plus the masked {kept} vector."
        )
    return text


def about_amount(controls: Sequence[str]) -> str:
    """Warn of controls that do not mask as much as PISTOLE does.

    Args:
        controls: those evaluated.

    Returns:
        One sentence; empty if there are none.
    """
    unlike = [label(name) for name in controls if name in UNEQUAL]
    if not unlike:
        return ""
    return (
        f"{listed(unlike)} also keep{'s' * (len(unlike) == 1)} another amount of the task vectors "
        "than PISTOLE does, so the comparison mixes aim with amount."
    )


def caution(comparisons: int) -> str:
    """Warn of many comparisons.

    Args:
        comparisons: how many were made.

    Returns:
        Two sentences; empty if none was made.
    """
    if not comparisons:
        return ""
    return (
        f"{comparisons} comparisons of the Sum are made here, each with its own {LEVEL:.0%} "
        "interval; nothing corrects for their number. If no two models differed in truth, about "
        f"{(1 - LEVEL) * comparisons:.1f} of them would still be clear of zero."
    )
