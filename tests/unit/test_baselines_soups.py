"""Uniform, robustness and greedy soups (docs/method.md C.1)."""

import math

import pytest
import torch

from pistole.baselines.soups import RobustnessSoup, UniformSoup, affine_grid, greedy_soup
from pistole.errors import UserError
from tests.unit.baselines_models import check_rule, close, flat, same, sources, unflat
from tests.unit.method_models import random_params


def models(*values: float) -> dict:
    """Candidates of one number, by letter."""
    return {name: {"x": torch.tensor([v])} for name, v in zip("abcdef", values, strict=False)}


def test_a_uniform_soup_is_the_mean_of_the_models():
    base, vectors = sources(3)
    mean = sum(flat(base) + flat(v) for v in vectors) / 3
    assert close(UniformSoup()(base, vectors, (1, 1, 1)), unflat(mean, base))
    leaning = flat(base) + 0.2 * flat(vectors[0]) + 0.8 * flat(vectors[1])
    assert close(UniformSoup()(base, vectors[:2], (1, 4)), unflat(leaning, base))
    with pytest.raises(UserError, match=r"weights sum to 0\.0"):
        UniformSoup()(base, vectors[:2], (1, -1))


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (-0.2, 1.2), (1.2, 0.4), (0, 0)])
def test_a_robustness_soup_is_affine_in_models_and_base(a, b):
    base, (nat, rob) = sources()
    theta_0, theta_nat, theta_rob = flat(base), flat(base) + flat(nat), flat(base) + flat(rob)
    expected = (1 - a - b) * theta_0 + a * theta_nat + b * theta_rob
    found = RobustnessSoup(coefficients=(a, b))(base, [nat, rob], (1, 1))
    assert close(found, unflat(expected, base))


def test_the_default_robustness_soup_is_uniform_and_weights_multiply():
    base, vectors = sources()
    found = RobustnessSoup()(base, vectors, (1, 1))
    assert close(found, UniformSoup()(base, vectors, (1, 1)))
    left = RobustnessSoup(coefficients=(1.2, -0.2), scaling=2)(base, vectors, (0.5, 0.5))
    assert close(left, RobustnessSoup(coefficients=(1.2, -0.2))(base, vectors, (1, 1)))
    with pytest.raises(UserError, match="2 coefficients for 1 task vectors"):
        RobustnessSoup()(base, vectors[:1], (1,))
    with pytest.raises(UserError, match="coefficient is nan"):
        RobustnessSoup(coefficients=(1, math.nan))


def test_soups_keep_what_holds_for_every_rule():
    for count in (1, 2, 3):
        check_rule(UniformSoup, count)
        check_rule(lambda count=count: RobustnessSoup(coefficients=(0.7,) * count), count)


def test_the_grid_of_the_paper():
    line = affine_grid()
    assert len(line) == 15
    assert line[0] == (-0.2, 1.2)
    assert line[-1] == (1.2, -0.2)
    assert all(math.isclose(a + b, 1) for a, b in line)
    plane = affine_grid(base=True)
    assert len(plane) == len(set(plane)) == 225
    assert set(line) <= set(plane)
    assert affine_grid(0, 1, 0.5) == [(0, 1), (0.5, 0.5), (1, 0)]
    assert affine_grid(0, 0.4, 0.2) == []
    for arguments in ((1, 0, 0.1), (0, 1, 0), (0, 1, -1)):
        with pytest.raises(UserError, match="grid from"):
            affine_grid(*arguments)
    with pytest.raises(UserError, match="step is nan"):
        affine_grid(0, 1, math.nan)


def test_candidates_join_in_the_order_of_their_scores_if_the_score_does_not_drop():
    soup = greedy_soup(models(4.0, -2.0, 1.5, -1.4, 1.0), lambda p: -abs(p["x"].item()))
    # e: 1.0; with d: -0.2; with c: 0.37 is worse; with b: -0.8 is worse; with a: 1.2 is worse.
    assert soup.members == ("e", "d")
    assert soup.params["x"].item() == pytest.approx(-0.2)
    assert soup.score == pytest.approx(-0.2)


def test_a_score_that_stays_is_enough_and_equal_ones_go_by_name():
    soup = greedy_soup(models(3.0, 1.0, 2.0), lambda p: 1.0)
    assert soup.members == ("a", "b", "c")
    assert soup.params["x"].tolist() == [2.0]
    backwards = dict(reversed(models(3.0, 1.0, 2.0).items()))
    assert greedy_soup(backwards, lambda p: 1.0).members == ("a", "b", "c")


def test_a_soup_is_no_worse_than_the_best_candidate_and_its_score_is_its_own():
    candidates = {str(seed): random_params(seed) for seed in range(5)}

    def score(params):
        return -flat(params).square().sum().item()

    kept = {name: {k: v.clone() for k, v in p.items()} for name, p in candidates.items()}
    soup = greedy_soup(candidates, score)
    assert soup.score >= max(map(score, candidates.values()))
    assert soup.score == score(soup.params)
    mean = sum(flat(candidates[name]) for name in soup.members) / len(soup.members)
    assert close(soup.params, unflat(mean, candidates["0"]))
    assert len(soup.members) > 1
    assert all(same(candidates[name], kept[name]) for name in kept)
    assert all(v.dtype == torch.float32 for v in soup.params.values())


def test_one_candidate_is_the_soup():
    soup = greedy_soup(models(3.0), lambda p: 0.5)
    assert soup.members == ("a",)
    assert soup.params["x"].tolist() == [3.0]
    assert soup.score == 0.5


def test_what_makes_no_soup_is_refused():
    with pytest.raises(UserError, match="no candidate"):
        greedy_soup({}, lambda p: 0.0)
    with pytest.raises(UserError, match="score of 'a' is nan"):
        greedy_soup(models(1.0), lambda p: math.nan)
    with pytest.raises(UserError, match="candidate 'b': tensor 'x' is not finite"):
        greedy_soup(models(1.0, math.inf), lambda p: 0.0)
    with pytest.raises(UserError, match="candidate 'b': tensor 'x' has shape"):
        greedy_soup(models(1.0) | {"b": {"x": torch.ones(2)}}, lambda p: 0.0)
