"""APT: the trajectory, its scores and its ball (docs/method.md A.4)."""

import math

import pytest
import torch

from pistole.errors import UserError
from pistole.method.ball import group_norm
from pistole.method.masks import MaskSettings, complementary_masks
from pistole.method.trajectory import (
    VARIANTS,
    ascend_and_project,
    trajectory_scores,
)
from tests.unit.method_models import log_prob, mlp, random_params
from tests.unit.trajectory_models import Given, Gradients, close, path_scores

Params = dict[str, torch.Tensor]


WEIGHTS = torch.linspace(0.2, 1.8, 8, dtype=torch.float64)


def test_one_step_without_weights_is_gism():
    """K = 1, w = 1: every variant is |expected gradient at theta_s|."""
    theta, source = mlp(), Gradients()
    found = path_scores(theta, source, steps=1, eta=0.005)
    gism = {k: v.abs() for k, v in source.full(theta, torch.ones(8, dtype=torch.float64)).items()}
    for variant in VARIANTS:
        assert close(found[variant].scores, gism)
    assert len(source.points) == 1


def test_the_path_scores_are_the_mean_of_magnitudes_over_the_points():
    theta, source = mlp(), Gradients(WEIGHTS)
    found = path_scores(theta, source, steps=3, eta=0.05)
    assert len(source.points) == 3
    for variant, weights in (("gism_apt", torch.ones_like(WEIGHTS)), ("pistole", WEIGHTS)):
        steps = [source.full(point, weights) for point in source.points]
        for name in theta:
            mean = torch.stack([step[name].abs() for step in steps]).mean(0)
            assert torch.allclose(found[variant].scores[name], mean, rtol=1e-9, atol=1e-14)
    for variant, weights in (("gism", torch.ones_like(WEIGHTS)), ("gism_pci", WEIGHTS)):
        first = source.full(theta, weights)
        assert close(found[variant].scores, {k: v.abs() for k, v in first.items()})


def test_signs_that_cancel_along_the_path_still_count():
    theta = {"w": torch.ones(2, 2)}

    def flipping(step: int, point: Params) -> Given:
        g = {"w": torch.full((2, 2), (-1.0) ** step)}
        return Given(g, g)

    found = path_scores(theta, flipping, steps=2, eta=0.01)
    assert torch.equal(found["pistole"].scores["w"], torch.ones(2, 2))


def test_signs_that_cancel_between_samples_do_not_count():
    theta = {"w": torch.ones(1, 1)}

    def opposed(step: int, point: Params) -> Given:
        return Given({"w": torch.ones(1, 1)}, {"w": -torch.ones(1, 1)})

    found = path_scores(theta, opposed, steps=1, eta=0.01)
    assert found["gism"].scores["w"].item() == 0
    assert [half["w"].item() for half in found["gism"].halves] == [1, 1]


def test_halves_are_scored_on_the_same_path():
    theta, source = mlp(), Gradients(WEIGHTS)
    found = path_scores(theta, source, steps=2, eta=0.05)
    for start in (0, 1):
        steps = [source.half(point, WEIGHTS, start) for point in source.points]
        mean = {k: (steps[0][k].abs() + steps[1][k].abs()) / 2 for k in theta}
        assert close(found["pistole"].halves[start], mean)
        first = source.half(theta, torch.ones_like(WEIGHTS), start)
        assert close(found["gism"].halves[start], {k: v.abs() for k, v in first.items()})


def test_the_path_climbs_the_unweighted_loss_of_the_whole_set():
    theta = mlp()
    plain, weighted = Gradients(), Gradients(WEIGHTS)
    path_scores(theta, plain, steps=4, eta=0.05)
    path_scores(theta, weighted, steps=4, eta=0.05)
    for left, right in zip(plain.points, weighted.points, strict=True):
        assert close(left, right)
    losses = [-log_prob(plain.x, plain.y)(point).mean().item() for point in plain.points]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


@pytest.mark.parametrize("steps", [2, 5])
def test_beta_is_twice_eta_over_k_by_default(steps):
    theta, default, given = mlp(), Gradients(), Gradients()
    path_scores(theta, default, steps=steps, eta=0.01)
    path_scores(theta, given, steps=steps, eta=0.01, beta=2 * 0.01 / steps)
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
    path_scores(theta, Gradients(), steps=3, eta=0.05, perturb_1d=True)
    assert all(torch.equal(theta[k], before[k]) for k in theta)


def test_path_scores_suppress_wherever_a_point_had_gradient():
    """Corollary 1: g_j != 0 at one point of the path gives M_j < 1."""
    theta, source = mlp(), Gradients()
    scores = path_scores(theta, source, steps=3, eta=0.05)["pistole"].scores
    masks, _ = complementary_masks(
        scores, scores, MaskSettings(gamma=0.5, kappa=2, q=1, cap_mode="none")
    )
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
        path_scores(mlp(), Gradients(), **settings)


def test_bad_gradients_are_refused():
    theta = mlp()
    good = Gradients().half(theta, WEIGHTS, 0)

    def broken(change: Params, drop: str = "") -> Given:
        return Given(good, {k: v for k, v in (good | change).items() if k != drop})

    nan = {"1.bias": torch.full((6,), math.nan, dtype=torch.float64)}
    for answer, words in (
        (broken(nan), "gradient: tensor '1.bias' is not finite"),
        (broken({}, drop="1.bias"), "'1.bias' is missing"),
        (broken({"1.bias": torch.zeros(5, dtype=torch.float64)}), "'1.bias' has shape"),
    ):
        with pytest.raises(UserError, match=words):
            path_scores(theta, lambda *_, answer=answer: answer, steps=1, eta=0.01)
    with pytest.raises(UserError, match=r"source: tensor '1\.bias' is not finite"):
        path_scores(theta | nan, Gradients(), steps=1, eta=0.01)


@pytest.mark.parametrize("statistic", ["abs_mean", "mean_abs", "rms"])
def test_every_statistic_climbs_the_same_path(statistic):
    theta, own, reference = mlp(), Gradients(WEIGHTS, size=1), Gradients(WEIGHTS)
    path_scores(theta, own, steps=4, eta=0.05, statistic=statistic)
    path_scores(theta, reference, steps=4, eta=0.05)
    for left, right in zip(own.points, reference.points, strict=True):
        assert close(left, right)


def test_the_sums_of_the_halves_are_where_the_caller_puts_them():
    made: list[Params] = []

    def allocate(like: Params) -> Params:
        made.append({name: torch.zeros_like(value) for name, value in like.items()})
        return made[-1]

    *_, last = trajectory_scores(mlp(), Gradients(), steps=2, eta=0.01, allocate=allocate)
    assert last.variant == "pistole"
    assert len(made) == 6  # per score: two halves, and the first half of one point
    assert last.halves == (made[3], made[4])
    assert all((value > 0).any() for value in made[3].values())


def test_by_default_tensors_of_one_dimension_do_not_move():
    default, source = Gradients(), Gradients()
    path_scores(mlp(), default, steps=2, eta=0.05)
    path_scores(mlp(), source, steps=2, eta=0.05, perturb_1d=True)
    assert torch.equal(default.points[1]["0.bias"], mlp()["0.bias"])
    assert not torch.equal(source.points[1]["0.bias"], mlp()["0.bias"])


@pytest.mark.parametrize("beta", [0, math.inf, math.nan])
def test_a_step_that_is_no_positive_number_is_refused(beta):
    with pytest.raises(UserError, match="beta is"):
        path_scores(mlp(), Gradients(), steps=2, eta=0.01, beta=beta)
