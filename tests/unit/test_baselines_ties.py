"""TIES against its definition, written out (docs/method.md C)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pistole.baselines.arithmetic import TaskArithmetic
from pistole.baselines.ties import Ties, elect, sum_of
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


def literal(vectors, weights, density=0.2, reduce="mean", zero_sign="majority"):
    """One vector at a time, one coordinate at a time, in float64."""
    size = len(vectors[0])
    count = max(1, int(density * size))
    rows = []
    for vector, weight in zip(vectors, weights, strict=True):
        limit = sorted((abs(x) for x in vector), reverse=True)[count - 1]
        rows.append([weight * x if abs(x) >= limit else 0.0 for x in vector])
    totals = [sum(row[i] for row in rows) for i in range(size)]
    signs = [(t > 0) - (t < 0) for t in totals]
    spare = {"majority": sum(signs), "positive": 1, "none": 0}[zero_sign]
    signs = [s or (spare > 0) - (spare < 0) for s in signs]
    merged = []
    for i in range(size):
        agreeing = [row[i] for row in rows if row[i] * signs[i] > 0]
        divisor = max(1, len(agreeing)) if reduce == "mean" else 1
        merged.append(sum(agreeing) / divisor)
    return torch.tensor(merged, dtype=torch.float64)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
@pytest.mark.parametrize("weights", [(1, 1), (0.3, 0.7), (1, 1, 1), (0.2, -0.5, 1.5), (2,)])
@pytest.mark.parametrize("density", [0.01, 0.2, 0.5, 1])
def test_the_whole_vector_is_merged_as_the_definition_says(density, weights, reduce):
    base, vectors = sources(len(weights))
    delta = literal([flat(v).tolist() for v in vectors], weights, density, reduce)
    found = Ties(density=density, reduce=reduce, scaling=0.4)(base, vectors, weights)
    assert close(found, unflat(flat(base) + 0.4 * delta, base))


@pytest.mark.parametrize("weights", [(1, 1), (0.3, 0.7)])
def test_every_tensor_is_trimmed_for_itself_at_scope_tensor(weights):
    base, vectors = sources()
    found = Ties(scope="tensor")(base, vectors, weights)
    for name, value in base.items():
        rows = [v[name].double().flatten().tolist() for v in vectors]
        delta = literal(rows, weights).reshape(value.shape)
        assert torch.allclose(found[name].double(), value + delta, atol=1e-6)
    assert not same(found, Ties()(base, vectors, weights))


@few
@given(
    vector_lists(),
    st.sampled_from(["mean", "sum"]),
    st.sampled_from(["majority", "positive", "none"]),
    st.sampled_from([0.1, 0.5, 1]),
)
def test_ties_zeros_and_cancelling_entries_follow_the_definition(rows, reduce, zero_sign, density):
    vectors = [as_params(row) for row in rows]
    base = zeros(vectors[0])
    rule = Ties(density=density, reduce=reduce, zero_sign=zero_sign)
    delta = literal([row.tolist() for row in rows], (1, 1), density, reduce, zero_sign)
    assert close(rule(base, vectors, (1, 1)), unflat(delta, base))


@few
@given(vector_lists(), st.sampled_from([0.25, 2.0, 8.0]), st.sampled_from(["vector", "tensor"]))
def test_a_longer_unit_scales_the_merged_vector_and_order_does_not_count(rows, unit, scope):
    vectors = [as_params(row) for row in rows]
    base, rule = zeros(vectors[0]), Ties(scope=scope)
    found = rule(base, vectors, (1, 1))
    scaled = rule(base, [{k: unit * x for k, x in v.items()} for v in vectors], (1, 1))
    assert same(scaled, {k: unit * x for k, x in found.items()})
    assert same(rule(base, vectors[::-1], (1, 1)), found)


@few
@given(vector_lists(count=1, size=30), st.floats(0.01, 1))
def test_one_vector_is_trimmed_to_the_share_of_its_coordinates(rows, density):
    vector = as_params(rows[0])
    found = flat(Ties(density=density)(zeros(vector), [vector], (1,)))
    magnitudes = flat(vector).abs()
    count = max(1, int(density * len(magnitudes)))
    limit = magnitudes.sort(descending=True).values[count - 1]
    assert torch.equal(found, flat(vector) * (magnitudes >= limit))
    kept = int((found != 0).sum())
    assert kept >= count or limit == 0
    if len(magnitudes.unique()) == len(magnitudes):
        assert kept == count - int((magnitudes == 0).any() and count == len(magnitudes))


def test_with_two_vectors_a_conflict_goes_to_the_larger_magnitude():
    vectors = [{"a": torch.tensor([3.0, 1.0, 2.0])}, {"a": torch.tensor([-1.0, -4.0, 2.0])}]
    found = Ties(density=1)(zeros(vectors[0]), vectors, (1, 1))
    assert found["a"].tolist() == [3.0, -4.0, 2.0]


def test_entries_that_cancel_take_the_majority_sign_of_the_whole_vector():
    """The majority lies in another tensor than the zero sum."""
    left = {"a": torch.tensor([1.0]), "b": torch.tensor([-1.0, -2.0])}
    right = {"a": torch.tensor([-1.0]), "b": torch.tensor([-1.0, 1.0])}
    base = zeros(left)
    for zero_sign, expected in {"majority": -1.0, "positive": 1.0, "none": 0.0}.items():
        found = Ties(density=1, zero_sign=zero_sign)(base, [left, right], (1, 1))
        assert found["a"].item() == expected


def test_the_threshold_is_that_of_the_whole_vector():
    """A tensor of small entries loses them all: the quantile favours big layers."""
    vector = {"big": torch.linspace(1, 2, 50), "small": torch.full((5,), 0.1)}
    found = Ties()(zeros(vector), [vector], (1,))
    assert int((found["big"] != 0).sum()) == 11
    assert not found["small"].any()
    own = Ties(scope="tensor")(zeros(vector), [vector], (1,))
    assert own["small"].tolist() == pytest.approx([0.1] * 5)  # all equal: all are kept


def test_nothing_trimmed_and_no_conflict_is_task_arithmetic():
    base, (nat, _) = sources()
    twice = {k: 2 * v for k, v in nat.items()}
    found = Ties(density=1, reduce="sum", scaling=0.3)(base, [nat, twice], (1, 1))
    assert close(found, TaskArithmetic(scaling=0.3)(base, [nat, twice], (1, 1)))


def test_a_weight_of_zero_takes_a_vector_out():
    base, vectors = sources()
    found = Ties()(base, vectors, (0, 1))
    assert same(found, Ties()(base, vectors[1:], (1,)))


@pytest.mark.parametrize("scope", ["vector", "tensor"])
@pytest.mark.parametrize("zero_sign", ["majority", "positive", "none"])
def test_ties_keeps_what_holds_for_every_rule(scope, zero_sign):
    for count in (1, 2, 3):
        check_rule(lambda: Ties(scope=scope, zero_sign=zero_sign), count)


def test_empty_tensors_pass():
    vector = {"a": torch.empty(0, 3), "b": torch.ones(4)}
    for scope in ("vector", "tensor"):
        assert Ties(scope=scope)(zeros(vector), [vector], (1,))["a"].shape == (0, 3)


def test_the_election_itself():
    rows = [torch.tensor([1.0, -2.0, 0.0, 1.0]), torch.tensor([3.0, 1.0, 0.0, -1.0])]
    assert elect(rows, 1.0, "mean").tolist() == [2.0, -2.0, 0.0, 1.0]
    assert elect(rows, -1.0, "sum").tolist() == [4.0, -2.0, 0.0, -1.0]
    assert elect(rows, 0.0, "sum").tolist() == [4.0, -2.0, 0.0, 0.0]
    assert sum_of(rows).tolist() == [4.0, -1.0, 0.0, 0.0]
    assert rows[0].tolist() == [1.0, -2.0, 0.0, 1.0]


def test_the_defaults_are_the_papers():
    official = {"reduce": "mean", "scope": "vector", "zero_sign": "majority"}
    assert Ties() == Ties(density=0.2, scaling=1.0, **official)


def test_options_that_mean_nothing_are_refused():
    for density in (0, -0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match=r"density is .*: give a share in \(0, 1\]"):
            Ties(density=density)
    for option in ("reduce", "scope", "zero_sign"):
        with pytest.raises(UserError, match=f"{option} is 'most': choose one of"):
            Ties(**{option: "most"})
