"""Exact order statistics of vectors that are walked piece by piece."""

import math

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pistole.baselines import quantile
from pistole.baselines.quantile import (
    count_of,
    order_statistics,
    tensor_threshold,
    top_thresholds,
)
from pistole.errors import UserError
from tests.unit.baselines_models import few

numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
tied = st.sampled_from([0.0, -0.0, 1.0, -1.0, float(np.float32(1e-45)), 1.0000001192092896])
vectors = arrays.arrays(np.float32, st.integers(1, 40), elements=numbers | tied)


def pieces(*rows: torch.Tensor, cut: int = 3):
    """Walk vectors of one length ``cut`` coordinates at a time."""
    return lambda: zip(*(row.split(cut) for row in rows), strict=True)


@few
@given(vectors, st.booleans(), st.integers(1, 41), st.integers(1, 41))
def test_every_rank_is_what_sorting_gives(values, magnitude, cut, chunk):
    row = torch.from_numpy(values.copy())
    expected = (row.abs() if magnitude else row).sort().values.tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantile, "CHUNK", chunk)
        found = order_statistics(pieces(row, cut=cut), range, magnitude=magnitude)
    assert found == [expected]
    assert torch.equal(row, torch.from_numpy(values))


def test_several_vectors_are_ranked_apart_in_two_walks():
    rows = [torch.randn(1000, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    walks = []

    def walk():
        walks.append(1)
        return pieces(*rows, cut=77)()

    found = order_statistics(walk, lambda size: [size - 1, 0, size // 2])
    expected = [[row.sort().values[rank].item() for rank in (999, 0, 500)] for row in rows]
    assert found == expected
    assert len(walks) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_ranked_as_single(dtype):
    row = torch.randn(50, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = order_statistics(pieces(row), range)
    assert found == [row.float().sort().values.tolist()]


def test_a_tensor_that_is_not_contiguous_is_ranked():
    row = torch.arange(12.0).reshape(3, 4).T
    assert order_statistics(lambda: iter([[row]]), range) == [list(range(12))]


@pytest.mark.parametrize("share", [0.001, 0.1, 0.2, 0.5, 0.999, 1])
def test_thresholds_keep_exactly_the_share_of_distinct_magnitudes(share):
    row = torch.randperm(101, generator=torch.Generator().manual_seed(0)) - 0.25
    row *= torch.randn(101, generator=torch.Generator().manual_seed(1)).sign()
    (threshold,) = top_thresholds(pieces(row), share)
    assert int((row.abs() >= threshold).sum()) == max(1, int(share * 101))
    assert tensor_threshold(row, share) == threshold


def test_a_large_tensor_is_counted_and_gives_the_same_threshold(monkeypatch):
    row = torch.randn(200, generator=torch.Generator().manual_seed(0)).bfloat16()
    selected = tensor_threshold(row.view(10, 20), 0.3)
    monkeypatch.setattr(quantile, "LARGE", 100)
    monkeypatch.setattr(quantile, "top_thresholds", lambda rows, share: calls.append(share) or ties)
    calls, ties = [], top_thresholds(lambda: iter([[row.view(10, 20)]]), 0.3)
    assert tensor_threshold(row.view(10, 20), 0.3) == selected == ties[0]
    assert calls == [0.3]


@pytest.mark.parametrize(
    ("share", "size", "count"), [(0.2, 5, 1), (0.2, 4, 1), (0.5, 5, 2), (1, 7, 7), (1e-9, 3, 1)]
)
def test_a_share_is_rounded_down_to_one_at_least(share, size, count):
    assert count_of(share, size) == count


@pytest.mark.parametrize("value", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("magnitude", [False, True])
def test_what_is_not_finite_is_refused(value, magnitude):
    good, bad = torch.ones(4), torch.tensor([1.0, value, 2.0, 3.0])
    with pytest.raises(UserError, match="vector 2 is not finite"):
        order_statistics(pieces(good, bad), range, magnitude=magnitude)


def test_ranks_outside_and_empty_vectors_are_refused():
    row = torch.ones(3)
    for rank in (-1, 3):
        with pytest.raises(UserError, match=r"ranks \[.*\] of 3 coordinates"):
            order_statistics(pieces(row), lambda size, rank=rank: [rank])
    for rows in ([], [[torch.empty(0)]]):
        with pytest.raises(UserError, match="no coordinate"):
            order_statistics(lambda rows=rows: iter(rows), range)


def test_no_more_than_a_chunk_of_keys_is_held(monkeypatch):
    """Memory does not grow with the vector: keys are made chunk by chunk."""
    monkeypatch.setattr(quantile, "CHUNK", 10)
    sizes = [len(keys) for keys in quantile._keys(torch.ones(101), True)]
    assert max(sizes) == 10
    assert sum(sizes) == 101
