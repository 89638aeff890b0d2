"""Statistics of the conflict map on known vectors."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pistole.errors import UserError
from pistole.theory.agreement import Grams
from pistole.theory.blocks import gram, half_samples
from pistole.theory.concentration import (
    chance_top_share,
    concentration,
    head_map,
    overlap,
    rank_correlation,
)
from pistole.theory.conflict import (
    chance_jaccard,
    cosine,
    divergence,
    gini,
    jaccard,
    optimisation_conflict,
    rank_product,
    top_count,
    top_parts,
    top_share,
)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_conflict_of_known_directions():
    a = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert cosine(a, a) == 1
    assert cosine(a, -2 * a) == -1
    assert cosine(a, a.T.flip(0)) == 0
    assert math.isnan(cosine(a, 0 * a))
    found = optimisation_conflict(torch.tensor([1.0, -1.0, 0.0, torch.nan]))
    assert found.tolist() == [0, 1, 0.5, 0]


def test_gini_of_known_vectors():
    vectors = torch.tensor([[0.0, 0, 0, 1], [1, 1, 1, 1], [1, 2, 3, 4], [4, 2, 3, 1]])
    assert gini(vectors).tolist() == pytest.approx([0.75, 0, 0.25, 0.25])
    assert gini(torch.zeros(3)).isnan()


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=12), st.floats(0.1, 10))
def test_gini_is_the_mean_difference_and_ignores_scale(values, scale):
    x = torch.tensor(values, dtype=torch.float64)
    pairs = (x[:, None] - x).abs().sum() / (2 * len(x) ** 2 * x.mean())
    assert gini(x).item() == pytest.approx(pairs.item(), abs=1e-9)
    assert gini(scale * x).item() == pytest.approx(gini(x).item(), abs=1e-9)
    assert 0 <= gini(x).item() + 1e-12 <= 1 - 1 / len(x) + 1e-9


def test_top_parts():
    values = torch.tensor([0.1, 0.5, 0.5, 0.3])
    assert top_parts(values, 1).tolist() == [False, True, False, False]  # ties: the earlier
    assert top_parts(values, 3).tolist() == [False, True, True, True]
    assert top_share(values, 2).item() == pytest.approx(1 / 1.4)
    assert top_share(torch.zeros(3), 1).isnan()
    asked = [(16, 0.1), (12, 0.1), (20, 0.1), (3, 0.01), (100, 0.07)]  # 100 x 0.07 > 7 by round-off
    assert [top_count(n, share) for n, share in asked] == [2, 2, 2, 1, 7]


def test_overlap_and_its_chance_level():
    a, b = torch.tensor([True, True, False, False]), torch.tensor([False, True, True, False])
    assert jaccard(a, b) == pytest.approx(1 / 3)
    assert jaccard(a, a) == 1
    assert jaccard(a, ~a) == 0
    assert jaccard(a & ~a, a & ~a) == 1
    sets = [set(s) for s in itertools.combinations(range(5), 2)]
    every = [len(s & t) / len(s | t) for s in sets for t in sets]
    assert chance_jaccard(5, 2) == pytest.approx(sum(every) / len(every))
    assert chance_jaccard(4, 4) == pytest.approx(1)
    with pytest.raises(UserError, match="5 of 4 parts make no set"):
        chance_jaccard(4, 5)
    maps = torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0], [0, 2, 3, 0]])
    assert overlap(maps, 2) == {
        "jaccard": pytest.approx((1 + 1 / 3 + 1 / 3) / 3),
        "chance": pytest.approx(chance_jaccard(4, 2)),
    }


def test_rank_product():
    a, b = torch.tensor([0.1, 5.0, 0.3]), torch.tensor([100.0, 300.0, 200.0])
    assert rank_product(a, b).tolist() == pytest.approx([1 / 9, 1, 4 / 9])
    tied = rank_product(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0]))
    assert tied.tolist() == pytest.approx([1.5 / 4, 3 / 4])
    stacked = rank_product(torch.stack([a, -a]), torch.stack([b, b]))
    assert torch.equal(stacked[1], rank_product(-a, b))


def test_divergence():
    p, q = (normal(s, 4, 6).log_softmax(1) for s in (1, 2))
    expected = nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(1)
    assert torch.allclose(divergence(p, q), expected)
    assert divergence(p, p).abs().max() == 0


def test_head_map_is_made_from_the_chosen_blocks():
    clean, robust = normal(1, 3, 6, 4), normal(2, 3, 6, 4)  # heads, blocks, coordinates
    grams = [Grams(gram(c, c), gram(c, r), gram(r, r)) for c, r in zip(clean, robust, strict=True)]
    sensitivity = normal(3, 3, 6).abs()
    chosen = half_samples(6, 4, seed=0)
    found = head_map(grams, sensitivity, chosen)
    for row, blocks in enumerate(chosen):
        for head in range(3):
            c, r = (side[head, blocks].mean(0) for side in (clean, robust))
            assert found.conflict[row, head].item() == pytest.approx((1 - cosine(c, r)) / 2)
        assert torch.allclose(found.sensitivity[row], sensitivity[:, blocks].mean(1))
    assert torch.equal(found.mass, found.conflict * found.sensitivity)
    assert torch.equal(found.score, rank_product(found.conflict, found.sensitivity))


def test_concentration_and_what_ranks_give_by_construction():
    whole = torch.tensor([[0.0, 0, 0, 1]])
    found = concentration(whole, whole.expand(50, 4), 1)
    assert (found["gini"], found["top_share"]) == (0.75, 1)
    assert found["top_share_ci95"] == pytest.approx([1, 1])
    nothing = concentration(0 * whole, 0 * whole.expand(50, 4), 1)
    assert set(nothing.values()) == {None}
    # Independent ranks: E[r s / sum r s] of the largest of two heads is 4/5 or 2/4.
    assert chance_top_share(2, 1, seed=0) == pytest.approx((4 / 5 + 2 / 4) / 2, abs=0.02)
    assert chance_top_share(5, 5, seed=0) == pytest.approx(1)


def test_rank_correlation_over_heads():
    x = torch.arange(20, dtype=torch.float64)
    found = rank_correlation(x, x.exp(), seed=0)
    assert found["spearman"] == pytest.approx(1)
    assert found["spearman_ci95"] == pytest.approx([1, 1])
    assert rank_correlation(0 * x, x, seed=0) == {"spearman": None, "spearman_ci95": None}
    assert rank_correlation(x[:2], x[:2], seed=0)["spearman"] is None
