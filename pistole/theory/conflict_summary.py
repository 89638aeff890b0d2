"""What the conflict map says, in numbers and one sentence (docs/method.md E.6)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pistole.seeds import derive
from pistole.theory.concentration import (
    HeadMap,
    chance_top_share,
    concentration,
    overlap,
    rank_correlation,
)
from pistole.theory.conflict import top_count

Row = dict[str, Any]
HEADLINE = "base"
MOST = 0.5  # share of the total that counts as concentrated
NORMAL = 1.96  # 95 % of a normal law
CLAIM = (
    "The conflict between natural and robust loss is concentrated in few attention heads, and "
    "conflicted heads matter for the merge"
)
PREDICTORS = ("score_base", "score_merged", "oc_base", "fs_base", "tc")
EFFECTS = ("loss_impact", "sum_impact")


@dataclass(frozen=True)
class Halfway:
    """The robust vector in as many of the first as of the last blocks, about half of them.

    Attributes:
        blocks: how many.
        first: robust loss per image with tau_rob in the first blocks only.
        last: robust loss per image with tau_rob in the last blocks only.
    """

    blocks: int
    first: Tensor
    last: Tensor


@dataclass(frozen=True)
class Found:
    """What the check measured.

    Attributes:
        images: number of images.
        heads: rows of the heads.
        maps: point -> maps on all images, on random halves and on disjoint parts of them.
        other_attack: the map at the headline's point from other starts of the attack.
        prefix: rows of the layer-prefix merge.
        halfway: its two models about halfway.
    """

    images: int
    heads: list[Row]
    maps: dict[str, dict[str, HeadMap]]
    other_attack: HeadMap | None
    prefix: list[Row]
    halfway: Halfway


def summarise(found: Found, top: float, seed: int) -> Row:
    """Judge the claim (docs/method.md E.6).

    Args:
        found: what was measured.
        top: share of heads that counts as the top.
        seed: of the run.

    Returns:
        Claim, measurement, verdict, statement and the numbers behind them.
    """
    depth = {"prefix": found.prefix, **_shallow(found.halfway)}
    if not found.heads:
        return {
            "claim": CLAIM,
            "measurement": _measurement(found, 0, 0) + ". No attention heads in this tower: the "
            "map is by layer alone",
            "verdict": "undecided",
            "statement": "Whether few attention heads carry the conflict is undecided: there are "
            "no attention heads in this tower.",
            "heads": 0,
            **depth,
        }
    count = len(found.heads)
    k = top_count(count, top)
    own = found.maps[HEADLINE]
    mass = {
        name: concentration(maps["whole"].mass, maps["halves"].mass, k)
        for name, maps in found.maps.items()
    }
    rank = concentration(own["whole"].score, own["halves"].score, k)
    links = _links(found.heads, seed)
    score, conflict = (_link(links, name) for name in ("score_base", "oc_base"))
    by_accuracy = _link(links, "score_base", "sum_impact")
    few = _few(mass[HEADLINE]["top_share_ci95"])
    matter = _matter(score["spearman_ci95"], conflict["spearman_ci95"])
    verdict = _both(few, matter)
    stability = {"parts": overlap(own["parts"].score, k)}
    if found.other_attack is not None:
        stability["attack"] = overlap(torch.cat([own["whole"].score, found.other_attack.score]), k)
    return {
        "claim": CLAIM,
        "measurement": _measurement(found, count, k),
        "verdict": verdict,
        "statement": _statement(
            verdict, mass[HEADLINE], (score, conflict, by_accuracy), f"{k} of {count}"
        ),
        "heads": count,
        "top_heads": k,
        "concentrated": few,
        "matters": matter,
        "mass": mass[HEADLINE] | {"even_top_share": k / count},
        "mass_merged": mass["merged"],
        "score": rank | {"chance_top_share": chance_top_share(count, k, derive(seed, "conflict"))},
        "overlap": stability,
        "correlations": links,
        **depth,
    }


def _few(ends: Any) -> str:
    if ends is None or ends[0] <= MOST <= ends[1]:
        return "undecided"
    return "holds" if ends[0] > MOST else "fails"


def _matter(*intervals: Any) -> str:
    """Both the score and the conflict alone must go with the effect of a head."""
    if any(ends is None for ends in intervals):
        return "undecided"
    if all(ends[0] > 0 for ends in intervals):
        return "holds"
    return "fails" if any(ends[1] <= 0 for ends in intervals) else "undecided"


def _both(few: str, matter: str) -> str:
    if few == matter == "holds":
        return "holds"
    return "fails" if "fails" in (few, matter) else "undecided"


def _links(heads: list[Row], seed: int) -> list[Row]:
    """Rank correlations over the heads of what should predict an effect with the effect."""
    columns = {
        name: torch.tensor(
            [torch.nan if row[name] is None else row[name] for row in heads], dtype=torch.float64
        )
        for name in (*PREDICTORS, *EFFECTS)
    }
    return [
        {"predictor": x, "effect": y}
        | rank_correlation(columns[x].nan_to_num(), columns[y], derive(seed, "conflict", x, y))
        for y in EFFECTS
        for x in PREDICTORS
    ]


def _link(links: list[Row], predictor: str, effect: str = "loss_impact") -> Row:
    return next(r for r in links if (r["predictor"], r["effect"]) == (predictor, effect))


def _shallow(halfway: Halfway) -> Row:
    """Compare tau_rob in the first with tau_rob in the last blocks (R-Adapt's claim)."""
    gap = (halfway.first - halfway.last).double()
    if len(gap) < 2 or not gap.any():
        return {"shallow_minus_deep": None, "shallow_verdict": "undecided"}
    mean, error = gap.mean().item(), gap.std().item() / len(gap) ** 0.5
    low, high = mean - NORMAL * error, mean + NORMAL * error
    return {
        "shallow_minus_deep": {
            "blocks": halfway.blocks,
            "robust_loss": mean,
            "low": low,
            "high": high,
        },
        "shallow_verdict": "holds" if high < 0 else "fails" if low > 0 else "undecided",
    }


def _measurement(found: Found, heads: int, top: int) -> str:
    text = (
        f"{found.images} images that the scores never saw, under the calibration attack; OC from "
        "gradients at the base (headline) and at the merged PISTOLE model, each with images "
        "attacked there"
    )
    if heads:
        text += (
            f". {heads} heads, of which {top} count as the top. FS: mean KL when a head's output "
            "is zeroed, clean and adversarial images. Mass: OC x FS; score: rank product. Effect "
            "of a head: mean size of the change of clean + robust loss when the merged model takes "
            "it from the natural, the robust or the base model, on the images attacked at the "
            "merged model, not attacked again. Intervals: 95%, from random halves of the images "
            "for concentration, which cover the choice of images; bootstrap over the heads for "
            "correlations. The claim holds if the top heads' share of the mass lies above "
            f"{MOST:g} and both score and OC alone go with the effect (intervals above 0), and "
            "fails if one of these intervals lies on the other side"
        )
    return text + (
        ". Depth: base + tau_rob in the first or last blocks only, each model attacked itself; "
        "shallow minus deep compares equal numbers of blocks, with a paired interval over images"
    )


def _statement(verdict: str, mass: Row, links: tuple[Row, Row, Row], top: str) -> str:
    told = [_told(link["spearman"], link["spearman_ci95"]) for link in links]
    if mass["top_share_ci95"] is None or None in told:
        return (
            "Whether few heads carry the conflict and matter for the merge is undecided: there are "
            "too few heads, or nothing conflicts."
        )
    says = {
        "holds": "Few heads carry the conflict, and conflicted heads matter for the merge",
        "fails": "That few heads carry the conflict and matter for the merge fails here",
        "undecided": "Whether few heads carry the conflict and matter for the merge is undecided",
    }[verdict]
    share = _told(mass["top_share"], mass["top_share_ci95"])
    return (
        f"{says}: {top} heads hold a share of {share} of conflict times sensitivity, and with the "
        f"loss change when a head is replaced the score has a rank correlation of {told[0]}, "
        f"conflict alone {told[1]}; with the accuracy change the score has {told[2]}."
    )


def _told(value: float | None, ends: list[float] | None) -> str | None:
    if value is None or ends is None:
        return None
    return f"{value:.2f} (95% interval {ends[0]:.2f} to {ends[1]:.2f})"
