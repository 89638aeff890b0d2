"""Score statistics and their reliability (docs/method.md A.3.1)."""

import itertools

import numpy as np
import pytest
import torch

from pistole.errors import UserError
from pistole.method import reliability
from pistole.method.reliability import average_ranks, spearman, split_half_reliability
from pistole.method.scores import accumulate, magnitude, micro_size
from pistole.method.trajectory import (
    VARIANTS,
)
from tests.unit.method_models import mlp, random_params
from tests.unit.trajectory_models import Gradients, close, path_scores

Params = dict[str, torch.Tensor]
WEIGHTS = torch.linspace(0.2, 1.8, 8, dtype=torch.float64)


@pytest.mark.parametrize("statistic", ["abs_mean", "mean_abs", "rms"])
@pytest.mark.parametrize("weighted", [False, True])
def test_statistics_are_those_of_the_single_gradients(statistic, weighted):
    """Against the per-sample gradients themselves, in double precision."""
    theta, source = mlp(), Gradients(WEIGHTS, size=1)
    found = path_scores(theta, source, steps=1, eta=0.01, statistic=statistic)
    variant, weights = ("gism_pci", WEIGHTS) if weighted else ("gism", torch.ones_like(WEIGHTS))
    single = [source.mean(theta, weights, torch.tensor([i])) for i in range(8)]
    for name in theta:
        g = torch.stack([one[name] for one in single])
        summary = {
            "abs_mean": lambda part: part.mean(0).abs(),
            "mean_abs": lambda part: part.abs().mean(0),
            "rms": lambda part: part.square().mean(0).sqrt(),
        }[statistic]
        assert torch.allclose(found[variant].scores[name], summary(g), rtol=1e-10)
        for half in (0, 1):
            assert torch.allclose(
                found[variant].halves[half][name], summary(g[half::2]), rtol=1e-10
            )


def test_mean_abs_lies_between_the_two_others():
    """One micro-batch per half is abs_mean of the halves; single images give E|g| <= rms."""
    theta = mlp()
    found = {
        (statistic, size): path_scores(
            theta, Gradients(size=size), steps=1, eta=0.01, statistic=statistic
        )["gism"]
        for statistic, size in (("abs_mean", 4), ("mean_abs", 4), ("mean_abs", 1), ("rms", 1))
    }
    for half in (0, 1):
        assert close(found["mean_abs", 4].halves[half], found["abs_mean", 4].halves[half])
    for name in theta:
        chain = [found[key].scores[name] for key in (("abs_mean", 4), ("mean_abs", 4),
                 ("mean_abs", 1), ("rms", 1))]  # fmt: skip
        assert all((a <= b * (1 + 1e-9)).all() for a, b in itertools.pairwise(chain))


def test_micro_batches_change_nothing_but_rounding():
    """In single precision, as the stage runs: the sums may differ by 1e-5 of the score."""
    theta = {name: value.float() for name, value in mlp().items()}
    found = []
    for size in (4, 1):
        source = Gradients(WEIGHTS.float(), size=size)
        source.x = source.x.float()
        found.append(path_scores(theta, source, steps=3, eta=0.05))
    for variant in VARIANTS:
        for name in theta:
            whole, parts = (one[variant].scores[name] for one in found)
            assert (whole - parts).abs().max() <= 1e-5 * whole.abs().max()


def test_an_unknown_statistic_is_refused():
    with pytest.raises(UserError, match="score_stat is 'median'"):
        path_scores(mlp(), Gradients(), steps=1, eta=0.01, statistic="median")


def test_equal_values_share_their_mean_rank():
    values = np.array([[3.0, 1.0, 3.0], [2.0, 5.0, 4.0]])
    assert average_ranks(values).tolist() == [[2.5, 1.0, 2.5], [1.0, 3.0, 2.0]]
    assert average_ranks(values, axis=0).tolist() == [[2.0, 1.0, 1.0], [1.0, 2.0, 2.0]]


def test_spearman_ranks():
    rising = torch.tensor([[0.0, 1.0], [2.0, 5.0]])
    assert spearman(rising, rising.exp()) == pytest.approx(1)
    assert spearman(rising, -rising) == pytest.approx(-1)
    ties = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    assert spearman(rising, ties) == pytest.approx(0.9486832980505138)  # scipy's value
    assert spearman(rising, torch.ones(2, 2)) == spearman(torch.ones(2, 2), rising) == 0
    assert spearman(torch.ones(1), torch.ones(1)) == 0


def test_split_half_reliability_is_per_layer():
    first = random_params(0)
    second = first | {"bias": -first["bias"], "conv": torch.zeros(3, 2, 2)}
    found = split_half_reliability(first, second)
    assert found == pytest.approx({"weight": 1, "bias": -1, "conv": 0})
    with pytest.raises(UserError, match="'conv' is missing"):
        split_half_reliability(first, {k: first[k] for k in ("weight", "bias")})


def test_large_layers_are_ranked_on_a_sample_that_their_name_decides(monkeypatch):
    source = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 40, 50, generator=source)
    halves = [dict.fromkeys(("a", "b"), half + 2 * noise[0]) for half in noise]
    whole = split_half_reliability(*halves)
    sizes = []
    monkeypatch.setattr(reliability, "RANKED", 500)
    monkeypatch.setattr(
        reliability, "spearman", lambda a, b: sizes.append(len(a)) or spearman(a, b)
    )
    sampled = split_half_reliability(*halves)
    assert sizes == [500, 500]
    assert sampled["a"] == pytest.approx(whole["a"], abs=0.02)
    assert sampled["a"] != sampled["b"]  # other coordinates
    assert sampled == split_half_reliability(*halves)


def test_micro_batches_of_unequal_size_weigh_by_their_images():
    total, signed = ({"w": torch.zeros(1)} for _ in range(2))
    micro = [(3, {"w": torch.tensor([2.0])}), (1, {"w": torch.tensor([-4.0])})]
    for statistic, expected in (("abs_mean", 2.0), ("mean_abs", 10.0), ("rms", 28.0)):
        total["w"].zero_()
        signed["w"].zero_()
        assert accumulate(micro, statistic, total, signed) == 4
        assert total["w"].item() == expected
        assert signed["w"].item() == 2.0
    assert magnitude(torch.tensor(28.0), 4, "rms").item() == pytest.approx(7**0.5)
    assert magnitude(torch.tensor(-8.0), 4, "abs_mean").item() == 2.0


def test_images_per_gradient():
    assert micro_size("abs_mean", 2, 64) == 64
    assert micro_size("mean_abs", 2, 64) == 2
    assert micro_size("rms", 2, 64) == 1
    with pytest.raises(
        UserError, match=r"^score_stat is 'max': choose one of abs_mean, mean_abs, rms$"
    ):
        micro_size("max", 2, 64)


def test_a_gradient_of_another_layout_or_statistic_is_refused():
    total, gradient = {"a": torch.zeros(2)}, {"a": torch.ones(3)}
    with pytest.raises(UserError, match=r"^gradient: tensor 'a' has shape \(3,\), not \(2,\)"):
        accumulate([(1, gradient)], "abs_mean", total, None)
    with pytest.raises(UserError, match=r"^score_stat is 'max'"):
        accumulate([(1, total)], "max", total, None)


def test_spearman_of_two_values_and_of_values_that_differ_late():
    assert spearman(torch.tensor([1.0, 2.0]), torch.tensor([5.0, 9.0])) == pytest.approx(1)
    late, ramp = torch.tensor([1.0, 1.0, 3.0, 2.0]), torch.arange(4.0)
    early = torch.tensor([0.0, 1.0, 1.0, 1.0])
    for tensor in (late, early):
        assert spearman(tensor, ramp) == pytest.approx(spearman(ramp, tensor))
        assert spearman(tensor, ramp) > 0.7
    with pytest.raises(UserError, match=r"^scores of the second half: tensor"):
        split_half_reliability({"a": ramp}, {"b": ramp})
