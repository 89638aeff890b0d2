"""DisTaC: task vectors conditioned by scale and distillation (docs/method.md C.4)."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import kl_div

from pistole.baselines.distac import (
    BETA,
    DESCENT,
    SHARPENING,
    SOFT,
    condition,
    distillation,
    norm_of,
    scales,
)
from pistole.baselines.learning import Descent
from pistole.errors import UserError
from tests.unit.method_models import Params, log_softmax, mlp, samples

BASE, TAU = mlp(0), {k: 0.3 * v for k, v in mlp(1).items()}
X, _ = samples(12)


def away(theta: Params, step: int) -> torch.Tensor:
    teacher = {k: BASE[k] + TAU[k] for k in BASE}
    return distillation(log_softmax(teacher, X), log_softmax(theta, X), (1.0, 10.0))


def test_official_defaults():
    assert (BETA, SOFT, SHARPENING) == (0.1, (10, 10), (1, 10))
    assert Descent(steps=500, lr=1e-5, weight_decay=0, clip=1) == DESCENT


def test_the_longer_vector_shrinks_and_the_shorter_stays():
    assert scales([4.0, 1.0]) == [0.25, 1.0]
    assert scales([1.0, 4.0]) == [1.0, 0.25]
    assert scales([3.0, 3.0]) == [1.0, 1.0]
    assert scales([6.0, 1.0, 3.0]) == pytest.approx([2 / 6, 1.0, 1.0])
    assert scales([5.0]) == [1.0]
    assert scales([5.0, 0.0]) == [1.0, 1.0]
    assert scales([0.0, 0.0]) == [1.0, 1.0]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=2), st.floats(0.1, 10))
def test_two_conditioned_norms_are_the_shorter_one(norms, factor):
    found = [kappa * norm for kappa, norm in zip(scales(norms), norms, strict=True)]
    assert found == pytest.approx([min(norms)] * 2)
    assert scales([factor * norm for norm in norms]) == pytest.approx(scales(norms))


def test_a_norm_is_over_all_tensors():
    assert norm_of({"a": torch.tensor([3.0]), "b": torch.tensor([[0.0], [4.0]])}) == 5


@pytest.mark.parametrize("temperatures", [(1.0, 1.0), (10.0, 10.0), (1.0, 10.0)])
def test_distillation_is_torchs_divergence_by_the_temperatures(temperatures):
    source = torch.Generator().manual_seed(0)
    teacher, student = (5 * torch.randn(6, 4, generator=source).double() for _ in range(2))
    warm, cool = temperatures
    target = (teacher / warm).softmax(1)
    wanted = kl_div((student / cool).log_softmax(1), target, reduction="batchmean") * warm * cool
    torch.testing.assert_close(distillation(teacher, student, temperatures), wanted)
    by_hand = sum(
        p * (math.log(p) - math.log(q))
        for ps, qs in zip(target, (student / cool).softmax(1), strict=True)
        for p, q in zip(ps.tolist(), qs.tolist(), strict=True)
    )
    assert wanted.item() == pytest.approx(warm * cool * by_hand / 6)


def test_equal_models_have_no_distance_and_no_gradient():
    theta = {k: (BASE[k] + TAU[k]).requires_grad_() for k in BASE}
    teacher = log_softmax({k: BASE[k] + TAU[k] for k in BASE}, X)
    value = distillation(teacher, log_softmax(theta, X), (10.0, 10.0))
    gradients = torch.autograd.grad(value, list(theta.values()))
    assert abs(value.item()) < 1e-14
    assert all(gradient.abs().max() < 1e-14 for gradient in gradients)
    # Under other temperatures the same model is not its own student.
    assert away({k: v.detach() for k, v in theta.items()}, 0) > 1e-3


def test_no_steps_are_the_pure_scaling():
    found, losses = condition(BASE, TAU, away, Descent(0, 1e-3), kappa=0.37)
    assert losses == []
    assert all(torch.equal(found[k], 0.37 * TAU[k]) for k in TAU)


def test_the_anchor_holds_where_nothing_is_distilled():
    # loss + beta |v - kappa tau|^2 with a linear loss g.v: the minimum is kappa tau - g / (2 beta).
    tau = {"a": torch.tensor([1.0, -2.0], dtype=torch.float64)}
    base = {"a": torch.tensor([5.0, 5.0], dtype=torch.float64)}
    slope = torch.tensor([0.2, -0.1], dtype=torch.float64)
    found, losses = condition(
        base, tau, lambda theta, step: (slope * theta["a"]).sum(), Descent(1500, 0.01),
        kappa=0.5, beta=0.4,
    )  # fmt: skip
    wanted = 0.5 * tau["a"] - slope / 0.8
    torch.testing.assert_close(found["a"], wanted, atol=1e-4, rtol=0)
    assert losses[0] == pytest.approx((slope * (base["a"] + 0.5 * tau["a"])).sum().item())


def test_distillation_brings_the_scaled_model_back_to_the_teacher():
    options = {"kappa": 0.5, "beta": 0.0}
    first, _ = condition(BASE, TAU, away, Descent(0, 0.01), **options)
    found, losses = condition(BASE, TAU, away, Descent(40, 0.01), **options)
    assert losses[-1] < 0.8 * losses[0]
    after = away({k: BASE[k] + found[k] for k in BASE}, 0)
    assert after < away({k: BASE[k] + first[k] for k in BASE}, 0)


def test_conditioning_is_deterministic_and_changes_no_argument():
    kept = {k: v.clone() for k, v in TAU.items()}
    once, again = (condition(BASE, TAU, away, Descent(3, 0.01), kappa=1)[0] for _ in range(2))
    assert all(torch.equal(once[k], again[k]) for k in TAU)
    assert all(torch.equal(TAU[k], kept[k]) for k in TAU)
    assert not any(value.requires_grad for value in once.values())


def test_bad_options_are_refused():
    with pytest.raises(UserError, match="kappa is -1"):
        condition(BASE, TAU, away, Descent(1, 0.1), kappa=-1)
    with pytest.raises(UserError, match="beta is nan"):
        condition(BASE, TAU, away, Descent(1, 0.1), kappa=1, beta=math.nan)
    broken = {k: v * math.nan for k, v in TAU.items()}
    with pytest.raises(UserError, match="learning diverged: loss is nan"):
        condition(BASE, broken, away, Descent(1, 0.1), kappa=1)
