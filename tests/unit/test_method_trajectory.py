"""APT: the trajectory, its scores and its ball (docs/method.md A.4)."""

import math

import pytest
import torch

from pistole.errors import UserError
from pistole.method.ball import group_norm
from pistole.method.masks import complementary_masks
from pistole.method.reliability import spearman, split_half_reliability
from pistole.method.trajectory import (
    VARIANTS,
    StepGradients,
    ascend_and_project,
    trajectory_scores,
)
from tests.unit.method_models import log_prob, mlp, random_params, samples

Params = dict[str, torch.Tensor]


class Gradients:
    """Exact half gradients of the test classifier's mean loss; records where it was asked."""

    def __init__(self, weights: torch.Tensor | None = None) -> None:
        self.x, self.y = samples(8)
        self.weights = torch.ones(8, dtype=torch.float64) if weights is None else weights
        self.points: list[Params] = []

    def half(self, theta: Params, weights: torch.Tensor, start: int) -> Params:
        def loss(point: Params) -> torch.Tensor:
            return -(weights * log_prob(self.x, self.y)(point))[start::2].mean()

        return torch.func.grad(loss)(theta)

    def full(self, theta: Params, weights: torch.Tensor) -> Params:
        def loss(point: Params) -> torch.Tensor:
            return -(weights * log_prob(self.x, self.y)(point)).mean()

        return torch.func.grad(loss)(theta)

    def __call__(self, step: int, theta: Params) -> StepGradients:
        assert step == len(self.points)
        self.points.append(theta)
        ones = torch.ones_like(self.weights)
        return StepGradients(
            plain=(self.half(theta, ones, 0), self.half(theta, ones, 1)),
            weighted=(self.half(theta, self.weights, 0), self.half(theta, self.weights, 1)),
        )


def close(left: Params, right: Params) -> bool:
    return all(torch.allclose(left[name], right[name], rtol=1e-9, atol=1e-14) for name in left)


WEIGHTS = torch.linspace(0.2, 1.8, 8, dtype=torch.float64)


def test_one_step_without_weights_is_gism():
    """K = 1, w = 1: every variant is |expected gradient at theta_s|."""
    theta, source = mlp(), Gradients()
    found = trajectory_scores(theta, source, steps=1, eta=0.005)
    gism = {k: v.abs() for k, v in source.full(theta, torch.ones(8, dtype=torch.float64)).items()}
    for variant in VARIANTS:
        assert close(found.scores[variant], gism)
    assert len(source.points) == 1


def test_the_path_scores_are_the_mean_of_magnitudes_over_the_points():
    theta, source = mlp(), Gradients(WEIGHTS)
    found = trajectory_scores(theta, source, steps=3, eta=0.05)
    assert len(source.points) == 3
    for variant, weights in (("gism_apt", torch.ones_like(WEIGHTS)), ("pistole", WEIGHTS)):
        steps = [source.full(point, weights) for point in source.points]
        for name in theta:
            mean = torch.stack([step[name].abs() for step in steps]).mean(0)
            assert torch.allclose(found.scores[variant][name], mean, rtol=1e-9, atol=1e-14)
    for variant, weights in (("gism", torch.ones_like(WEIGHTS)), ("gism_pci", WEIGHTS)):
        first = source.full(theta, weights)
        assert close(found.scores[variant], {k: v.abs() for k, v in first.items()})


def test_signs_that_cancel_along_the_path_still_count():
    theta = {"w": torch.ones(2, 2)}

    def flipping(step: int, point: Params) -> StepGradients:
        g = {"w": torch.full((2, 2), (-1.0) ** step)}
        return StepGradients(plain=(g, g), weighted=(g, g))

    found = trajectory_scores(theta, flipping, steps=2, eta=0.01)
    assert torch.equal(found.scores["pistole"]["w"], torch.ones(2, 2))


def test_signs_that_cancel_between_samples_do_not_count():
    theta = {"w": torch.ones(1, 1)}

    def opposed(step: int, point: Params) -> StepGradients:
        up, down = {"w": torch.ones(1, 1)}, {"w": -torch.ones(1, 1)}
        return StepGradients(plain=(up, down), weighted=(up, down))

    found = trajectory_scores(theta, opposed, steps=1, eta=0.01)
    assert found.scores["gism"]["w"].item() == 0
    assert [half["w"].item() for half in found.halves["gism"]] == [1, 1]


def test_halves_are_scored_on_the_same_path():
    theta, source = mlp(), Gradients(WEIGHTS)
    found = trajectory_scores(theta, source, steps=2, eta=0.05)
    for start in (0, 1):
        steps = [source.half(point, WEIGHTS, start) for point in source.points]
        mean = {k: (steps[0][k].abs() + steps[1][k].abs()) / 2 for k in theta}
        assert close(found.halves["pistole"][start], mean)
        first = source.half(theta, torch.ones_like(WEIGHTS), start)
        assert close(found.halves["gism"][start], {k: v.abs() for k, v in first.items()})


def test_the_path_climbs_the_unweighted_loss_of_the_whole_set():
    theta = mlp()
    plain, weighted = Gradients(), Gradients(WEIGHTS)
    trajectory_scores(theta, plain, steps=4, eta=0.05)
    trajectory_scores(theta, weighted, steps=4, eta=0.05)
    for left, right in zip(plain.points, weighted.points, strict=True):
        assert close(left, right)
    losses = [-log_prob(plain.x, plain.y)(point).mean().item() for point in plain.points]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


@pytest.mark.parametrize("steps", [2, 5])
def test_beta_is_twice_eta_over_k_by_default(steps):
    theta, default, given = mlp(), Gradients(), Gradients()
    trajectory_scores(theta, default, steps=steps, eta=0.01)
    trajectory_scores(theta, given, steps=steps, eta=0.01, beta=2 * 0.01 / steps)
    for left, right in zip(default.points, given.points, strict=True):
        assert all(torch.equal(left[name], right[name]) for name in theta)
    moved = {k: default.points[1][k] - theta[k] for k in theta}
    expected = min(1, 2 / steps) * 0.01 * group_norm(theta, ["0.weight"])
    assert group_norm(moved, ["0.weight"]) == pytest.approx(expected)


@pytest.mark.parametrize("ball", ["layer", "global"])
@pytest.mark.parametrize("perturb_1d", [False, True])
@pytest.mark.parametrize("beta", [0.004, 0.03, 5.0])
def test_projection_never_leaves_the_ball(ball, perturb_1d, beta):
    theta_s, eta = mlp(), 0.02
    theta = theta_s
    for step in range(8):
        direction = random_params(step, torch.float64, **{k: v.shape for k, v in theta_s.items()})
        theta = ascend_and_project(
            theta, theta_s, direction, eta=eta, beta=beta, ball=ball, perturb_1d=perturb_1d
        )
        offset = {k: theta[k] - theta_s[k] for k in theta_s}
        moved = [k for k in theta_s if perturb_1d or theta_s[k].ndim > 1]
        for names in [[k] for k in moved] if ball == "layer" else [moved]:
            assert group_norm(offset, names) <= eta * group_norm(theta_s, names) * (1 + 1e-9)
        assert all(offset[k].abs().max() == 0 for k in theta_s if k not in moved)


def test_one_ascent_step_has_the_length_beta_times_the_norm():
    theta_s, direction = mlp(), mlp(9)
    for ball, names in (("layer", ["0.weight"]), ("global", [k for k in theta_s if "w" in k])):
        theta = ascend_and_project(
            theta_s, theta_s, direction, eta=1, beta=0.01, ball=ball, perturb_1d=False
        )
        offset = {k: theta[k] - theta_s[k] for k in theta_s}
        assert group_norm(offset, names) == pytest.approx(0.01 * group_norm(theta_s, names))
        cosine = sum((offset[k] * direction[k]).sum() for k in names)
        assert cosine / group_norm(offset, names) / group_norm(direction, names) == pytest.approx(1)


def test_a_layer_without_gradient_or_norm_stays():
    theta_s = {"dead": torch.ones(2, 2), "zero": torch.zeros(2, 2)}
    direction = {"dead": torch.zeros(2, 2), "zero": torch.ones(2, 2)}
    theta = ascend_and_project(
        theta_s, theta_s, direction, eta=0.1, beta=0.1, ball="layer", perturb_1d=False
    )
    assert all(torch.equal(theta[k], theta_s[k]) for k in theta_s)


def test_inputs_are_not_changed():
    theta, before = mlp(), mlp()
    trajectory_scores(theta, Gradients(), steps=3, eta=0.05, perturb_1d=True)
    assert all(torch.equal(theta[k], before[k]) for k in theta)


def test_path_scores_suppress_wherever_a_point_had_gradient():
    """Corollary 1: g_j != 0 at one point of the path gives M_j < 1."""
    theta, source = mlp(), Gradients()
    scores = trajectory_scores(theta, source, steps=3, eta=0.05).scores["pistole"]
    masks, _ = complementary_masks(scores, scores, gamma=0.5, kappa=2, q=1, cap_mode="none")
    assert all((masks[k][scores[k] > 0] < 1).all() for k in theta)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"steps": 0}, "K is 0"),
        ({"eta": 0}, "eta is 0"),
        ({"eta": math.nan}, "eta is nan"),
        ({"beta": -1}, "beta is -1"),
        ({"ball": "box"}, "ball is 'box'"),
    ],
)
def test_bad_settings_are_refused(bad, words):
    settings = {"steps": 2, "eta": 0.01} | bad
    with pytest.raises(UserError, match=words):
        trajectory_scores(mlp(), Gradients(), **settings)


def test_bad_gradients_are_refused():
    theta, good = mlp(), Gradients()(0, mlp())

    def broken(change: Params, drop: str = "") -> StepGradients:
        half = {k: v for k, v in (good.weighted[1] | change).items() if k != drop}
        return StepGradients(plain=good.plain, weighted=(good.weighted[0], half))

    nan = {"1.bias": torch.full((6,), math.nan, dtype=torch.float64)}
    for answer, words in (
        (broken(nan), "gradient of step 0: tensor '1.bias' is not finite"),
        (broken({}, drop="1.bias"), "'1.bias' is missing"),
        (broken({"1.bias": torch.zeros(5, dtype=torch.float64)}), "'1.bias' has shape"),
    ):
        with pytest.raises(UserError, match=words):
            trajectory_scores(theta, lambda *_, answer=answer: answer, steps=1, eta=0.01)
    with pytest.raises(UserError, match=r"source: tensor '1\.bias' is not finite"):
        trajectory_scores(theta | nan, Gradients(), steps=1, eta=0.01)


def test_spearman_ranks():
    rising = torch.tensor([[0.0, 1.0], [2.0, 5.0]])
    assert spearman(rising, rising.exp()) == pytest.approx(1)
    assert spearman(rising, -rising) == pytest.approx(-1)
    ties = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    assert spearman(rising, ties) == pytest.approx(0.9486832980505138)  # scipy's value
    assert spearman(rising, torch.ones(2, 2)) == 0
    assert spearman(torch.ones(1), torch.ones(1)) == 0


def test_split_half_reliability_is_per_layer():
    first = random_params(0)
    second = first | {"bias": -first["bias"], "conv": torch.zeros(3, 2, 2)}
    found = split_half_reliability(first, second)
    assert found == pytest.approx({"weight": 1, "bias": -1, "conv": 0})
    with pytest.raises(UserError, match="'conv' is missing"):
        split_half_reliability(first, {k: first[k] for k in ("weight", "bias")})
