"""What the conflict map's summary says of synthetic maps."""

import pytest
import torch
from torch import Tensor

from pistole.theory.concentration import (
    HeadMap,
)
from pistole.theory.conflict_summary import Found, Halfway, summarise


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def found_of(
    mass: Tensor, conflict: Tensor, effect: Tensor, noise: float = 0.01, halfway: float = -1.0
) -> Found:
    """A map whose mass, conflict and effects are given, with a little spread."""
    sensitivity = mass / conflict

    def maps(rows: int) -> HeadMap:
        wobble = 1 + noise * normal(7, rows, len(mass)) * (rows > 1)
        return HeadMap(conflict.expand(rows, -1), (sensitivity * wobble).abs())

    both = {"whole": maps(1), "halves": maps(200), "parts": maps(2)}
    score = both["whole"].score[0]
    rows = [
        {
            "level": "head",
            "score_base": score[i].item(),
            "score_merged": score[i].item(),
            "oc_base": conflict[i].item(),
            "fs_base": sensitivity[i].item(),
            "tc": None,
            "loss_impact": effect[i].item(),
            "sum_impact": effect[i].item(),
        }
        for i in range(len(mass))
    ]
    losses = torch.ones(20, dtype=torch.float64), 1 + 0.01 * normal(0, 20)
    return Found(
        images=20,
        heads=rows,
        maps={"base": both, "merged": both},
        other_attack=both["whole"],
        prefix=[{"end": "first", "blocks": 2, "of": 4}],
        halfway=Halfway(2, losses[0] + halfway, losses[1]),
    )


FEW = torch.tensor([9.0, 8.0, *[0.1] * 28], dtype=torch.float64)
RISING = torch.linspace(0.1, 0.9, 30, dtype=torch.float64)
FALLING = RISING.flip(0)
EVEN = torch.ones(30, dtype=torch.float64)
NOISE = 0.5 + 0.4 * normal(4, 30).tanh()


@pytest.mark.parametrize(
    ("mass", "conflict", "effect", "few", "matters", "verdict"),
    [
        (FEW * FALLING, FALLING, FALLING, "holds", "holds", "holds"),
        (EVEN * FALLING, FALLING, FALLING, "fails", "holds", "fails"),
        (FEW * FALLING, FALLING, RISING, "holds", "fails", "fails"),
        # The score goes with the effect, conflict alone against it.
        (FEW * 0 + RISING**9, FALLING, RISING, "holds", "fails", "fails"),
        (FEW * FALLING, FALLING, normal(4, 30), "holds", "undecided", "undecided"),
        # Sensitivity alone makes the score go with the effect.
        (NOISE * RISING, NOISE, RISING, "fails", "undecided", "fails"),
    ],
)
def test_the_claim_needs_concentration_and_an_effect_of_conflict(
    mass, conflict, effect, few, matters, verdict
):
    found = summarise(found_of(mass, conflict, effect), top=0.1, seed=0)
    assert (found["heads"], found["top_heads"]) == (30, 3)
    assert (found["concentrated"], found["matters"]) == (few, matters)
    assert found["verdict"] == verdict
    assert found["statement"].endswith(".")
    assert found["mass"]["even_top_share"] == 0.1
    assert found["overlap"]["attack"]["jaccard"] == 1
    assert len(found["correlations"]) == 10


def test_wide_intervals_decide_nothing_about_concentration():
    mass = torch.tensor([1.0, 1, 1, *[0.11] * 27], dtype=torch.float64) * FALLING.round()
    noisy = found_of(mass + 0.05, FALLING, FALLING, noise=3.0)
    assert summarise(noisy, top=0.1, seed=0)["concentrated"] == "undecided"


@pytest.mark.parametrize(
    ("halfway", "verdict"),
    [(-1.0, "holds"), (1.0, "fails"), (0.002, "undecided"), (-0.002, "undecided")],
)
def test_the_depth_that_robustness_sits_in(halfway, verdict):
    found = summarise(found_of(FEW, FALLING, FALLING, halfway=halfway), top=0.1, seed=0)
    assert found["shallow_verdict"] == verdict
    gap = found["shallow_minus_deep"]
    assert gap["low"] < gap["robust_loss"] < gap["high"]
    assert gap["robust_loss"] == pytest.approx(halfway, abs=0.01)
    assert gap["blocks"] == 2


def test_a_tower_without_heads_is_said_to_have_none():
    ones = torch.ones(4)
    bare = Found(4, [], {}, None, [], Halfway(1, ones, ones))
    found = summarise(bare, top=0.1, seed=0)
    assert found["verdict"] == "undecided"
    assert "no attention heads in this tower" in found["statement"]
    assert found["heads"] == 0
    assert found["shallow_minus_deep"] is None
