"""TALL masks and Consensus task arithmetic (docs/method.md C)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pistole.baselines.arithmetic import TaskArithmetic
from pistole.baselines.consensus import Consensus, tall_masks
from pistole.errors import UserError
from tests.unit.baselines_models import (
    as_params,
    check_rule,
    close,
    few,
    flat,
    same,
    sources,
    unflat,
    vector_lists,
    zeros,
)


def literal(parts, lams, agree):
    """From models, as the official definition has it: |theta_0 - theta_t| against theta_MTL."""
    merged = []
    for entries in zip(*parts, strict=True):
        total = sum(entries)
        used = sum(abs(x) > lam * abs(total - x) for x, lam in zip(entries, lams, strict=True))
        merged.append(total if used >= agree else 0.0)
    return torch.tensor(merged, dtype=torch.float64)


@pytest.mark.parametrize("agree", [0, 1, 2])
@pytest.mark.parametrize("lams", [0.2, 0.4, 1.0, (0.2, 0.6)])
@pytest.mark.parametrize("weights", [(1, 1), (0.3, 0.7)])
def test_the_sum_is_kept_where_enough_masks_agree(weights, lams, agree):
    base, vectors = sources()
    parts = [(w * flat(v)).tolist() for w, v in zip(weights, vectors, strict=True)]
    each = lams if isinstance(lams, tuple) else (lams, lams)
    expected = flat(base) + 0.5 * literal(parts, each, agree)
    rule = Consensus(agree=agree, lams=lams, scaling=0.5)
    assert close(rule(base, vectors, weights), unflat(expected, base))


@few
@given(vector_lists(count=3), st.floats(0, 2), st.integers(0, 3))
def test_zeros_and_ties_follow_the_definition(rows, lam, agree):
    vectors = [as_params(row) for row in rows]
    found = Consensus(agree=agree, lams=lam, scaling=1)(zeros(vectors[0]), vectors, (1, 1, 1))
    kept = flat(found) != 0
    masks = tall_masks(rows, (lam,) * 3)
    enough = torch.stack(masks).sum(0) >= agree
    total = rows[0] + rows[1] + rows[2]
    assert torch.equal(kept, enough & (total != 0))
    assert torch.equal(flat(found)[kept].float(), total[kept])


def test_with_two_vectors_one_is_the_union_and_two_the_intersection():
    base, vectors = sources()
    parts = [flat(v) for v in vectors]
    left, right = tall_masks(parts, (0.5, 0.5))
    for agree, mask in ((1, left | right), (2, left & right)):
        found = flat(Consensus(agree=agree, lams=0.5)(zeros(base), vectors, (1, 1)))
        assert torch.equal(found != 0, mask)
    assert 0 < (left & right).sum() < (left | right).sum() <= len(left)
    assert same(Consensus(lams=1.0)(base, vectors, (1, 1)), base)


def test_masks_grow_as_lambda_falls():
    parts = [flat(v) for v in sources()[1]]
    sizes = [int(tall_masks(parts, (lam, lam))[0].sum()) for lam in (0.2, 0.3, 0.4, 0.5, 0.6)]
    assert sizes == sorted(sizes, reverse=True)


def test_no_agreement_needed_is_task_arithmetic():
    base, vectors = sources()
    found = Consensus(agree=0)(base, vectors, (1, 1))
    assert same(found, TaskArithmetic()(base, vectors, (1, 1)))
    found = Consensus(agree=1)(base, vectors[:1], (1,))
    assert same(found, TaskArithmetic()(base, vectors[:1], (1,)))


def test_consensus_keeps_what_holds_for_every_rule():
    check_rule(lambda: Consensus(agree=1), 1)
    for count in (2, 3):
        check_rule(Consensus, count)


def test_the_defaults_are_those_of_the_docstring():
    assert Consensus() == Consensus(agree=2, lams=0.4, scaling=0.4)


def test_options_that_do_not_fit_are_refused():
    base, vectors = sources()
    for agree in (-1, 1.5):
        with pytest.raises(UserError, match=f"agree is {agree}: give the number of vectors"):
            Consensus(agree=agree)
    for lam in (-0.1, math.nan, (0.2, math.inf)):
        with pytest.raises(UserError, match="lam is"):
            Consensus(lams=lam)
    with pytest.raises(UserError, match="3 lams for 2 task vectors"):
        Consensus(lams=(0.1, 0.2, 0.3))(base, vectors, (1, 1))
    with pytest.raises(UserError, match="agree is 3 for 2 task vectors: give at most 2"):
        Consensus(agree=3)(base, vectors, (1, 1))
