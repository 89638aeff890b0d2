"""Concrete subspace learning (docs/method.md C)."""

import math

import pytest
import torch

from pistole.baselines.coefficients import named
from pistole.baselines.concrete import (
    DESCENT,
    INIT,
    ConcreteAdaMerging,
    ConcreteTaskArithmetic,
    drawn_masks,
    learn_mask,
    masked,
    mean_one,
    relaxed_bernoulli,
)
from pistole.baselines.learning import Descent, mean_entropy
from pistole.errors import UserError
from tests.unit.method_models import Params, log_softmax, mlp, random_params, samples

BASE, NAT, ROB = (mlp(seed) for seed in range(3))
VECTORS = tuple({k: 0.3 * v for k, v in tau.items()} for tau in (NAT, ROB))
X, _ = samples(12)


def entropy(theta: Params, step: int) -> torch.Tensor:
    return mean_entropy(log_softmax(theta, X))


def statistics(masks: Params) -> Params:
    return {f"mask/{name}": mask for name, mask in masks.items()}


def test_official_defaults():
    assert (0.3, Descent(steps=2000, lr=1e-3)) == (INIT, DESCENT)
    assert (ConcreteTaskArithmetic().scaling, ConcreteAdaMerging().scaling) == (0.3, 1)
    assert (ConcreteTaskArithmetic.needs, ConcreteAdaMerging.needs) == (
        "concrete",
        "concrete_am",
    )


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_a_draw_is_that_of_torchs_relaxed_bernoulli(temperature):
    logits = torch.tensor([-3.0, -0.5, 0.0, 2.0], dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        law = torch.distributions.RelaxedBernoulli(temperature, logits=logits)
        wanted = law.rsample()
        torch.manual_seed(5)
        uniform = torch.rand(4, dtype=torch.float64)
    torch.testing.assert_close(relaxed_bernoulli(logits, uniform, temperature), wanted)


def test_a_draw_exceeds_half_as_often_as_a_bernoulli_variable_is_one():
    # P(m' > 1/2) = sigmoid(x) at every temperature; u on a fine grid makes it exact.
    grid = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    for x, temperature in ((-1.0, 0.5), (0.0, 0.1), (2.0, 2.0)):
        drawn = relaxed_bernoulli(torch.tensor(x, dtype=torch.float64), grid, temperature)
        share = (drawn > 0.5).double().mean().item()
        assert share == pytest.approx(1 / (1 + math.exp(-x)), abs=2e-5)


def test_the_expectation_of_a_draw_has_a_closed_form_at_temperature_one():
    # m' = u e^x / (1 - u + u e^x): E m' = r (r - 1 - ln r) / (r - 1)^2 with r = e^x.
    grid = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    for x in (-1.5, 0.7):
        r = math.exp(x)
        found = relaxed_bernoulli(torch.tensor(x, dtype=torch.float64), grid, 1.0).mean().item()
        assert found == pytest.approx(r * (r - 1 - x) / (r - 1) ** 2, abs=1e-6)
    half = relaxed_bernoulli(torch.tensor(0.0, dtype=torch.float64), grid, 0.5).mean().item()
    assert half == pytest.approx(0.5, abs=1e-9)


def test_a_draw_is_finite_at_the_ends_of_the_unit_interval():
    ends = relaxed_bernoulli(torch.zeros(2), torch.tensor([0.0, 1.0]), 0.5)
    assert torch.isfinite(ends).all()
    assert ends[0] < 1e-6 < 1 - 1e-6 < ends[1]


def test_a_mask_of_mean_one():
    mask = mean_one(torch.tensor([1.0, 3.0, 0.0, 0.0]))
    assert mask.tolist() == [1.0, 3.0, 0.0, 0.0]
    assert mean_one(torch.tensor([0.2, 0.2])).tolist() == [1.0, 1.0]
    assert mean_one(torch.tensor(0.3)).item() == 1
    assert mean_one(torch.zeros(3)).tolist() == [0.0, 0.0, 0.0]


def test_masks_of_each_kind():
    logits = {"a": torch.tensor([-8.0, 8.0, 8.0]), "b": torch.zeros(2000)}
    hard = drawn_masks(logits, 0.5, 1, kind="hard")
    assert hard["a"].tolist() == [0.0, 1.5, 1.5]
    assert len(hard["b"].unique()) == 2
    assert (hard["b"] > 0).float().mean().item() == pytest.approx(0.5, abs=0.05)
    median = drawn_masks(logits, 0.5, 1, kind="median")
    soft = torch.sigmoid(logits["a"] / 0.5)
    torch.testing.assert_close(median["a"], soft / soft.mean())
    assert (median["b"] == 1).all()
    sample = drawn_masks(logits, 0.5, 1)
    assert torch.equal(sample["b"], drawn_masks(logits, 0.5, 1)["b"])
    assert not torch.equal(sample["b"], drawn_masks(logits, 0.5, 2)["b"])
    assert all(m.mean().item() == pytest.approx(1) for m in (*sample.values(), *hard.values()))
    with pytest.raises(UserError, match="mask is 'mode': choose one of sample, median, hard"):
        drawn_masks(logits, 0.5, 1, kind="mode")


def test_concrete_task_arithmetic_is_the_literal_masked_sum():
    base, nat, rob = (random_params(seed) for seed in range(3))
    masks = drawn_masks(random_params(3), 0.5, 7)
    found = ConcreteTaskArithmetic(statistics=statistics(masks))(base, (nat, rob), (0.25, 2))
    for k in base:
        m, b = masks[k].double(), base[k].double()
        wanted = b + 0.3 * m * (0.25 * nat[k].double() + 2 * rob[k].double())
        torch.testing.assert_close(found[k].double(), wanted, atol=1e-6, rtol=1e-6)


def test_concrete_adamerging_is_the_literal_masked_sum():
    base, nat, rob = (random_params(seed) for seed in range(3))
    masks = drawn_masks(random_params(3), 0.5, 7)
    values = statistics(masks) | named(torch.tensor([0.4, 0.9]).reshape(2, 1, 1), list(base))
    found = ConcreteAdaMerging(statistics=values)(base, (nat, rob), (0.25, 2))
    for k in base:
        m, b = masks[k].double(), base[k].double()
        wanted = b + m * (0.25 * 0.4 * nat[k].double() + 2 * 0.9 * rob[k].double())
        torch.testing.assert_close(found[k].double(), wanted, atol=1e-6, rtol=1e-6)


def test_one_vector_and_zero_vectors():
    base, tau = random_params(0), random_params(1)
    ones = {f"mask/{k}": torch.ones_like(v) for k, v in base.items()}
    rule = ConcreteTaskArithmetic(statistics=ones, scaling=1.0)
    assert all(torch.equal(v, base[k] + tau[k]) for k, v in rule(base, [tau], (1,)).items())
    zero = {k: torch.zeros_like(v) for k, v in base.items()}
    assert all(torch.equal(v, base[k]) for k, v in rule(base, [zero, zero], (1, 1)).items())


def test_missing_and_misshapen_masks_are_refused():
    base, tau = random_params(0), random_params(1)
    with pytest.raises(UserError, match="'mask/weight'"):
        ConcreteTaskArithmetic()(base, [tau], (1,))
    small = {f"mask/{k}": torch.ones(2) for k in base}
    with pytest.raises(UserError, match=r"'mask/weight' has shape \(2,\), not \(6, 5\)"):
        ConcreteTaskArithmetic(statistics=small)(base, [tau], (1,))
    broken = {f"mask/{k}": v * math.nan for k, v in base.items()}
    with pytest.raises(UserError, match="'mask/weight' is not finite"):
        ConcreteAdaMerging(statistics=broken)(base, [tau], (1,))


def test_the_mask_finds_the_coordinates_that_lower_the_loss():
    # loss = sum theta: coordinates along which tau is negative should stay, the others go.
    base = {"w": torch.zeros(40, dtype=torch.float64)}
    tau = {"w": torch.ones(40, dtype=torch.float64)}
    tau["w"][::2] = -1
    logits, losses = learn_mask(
        base, [tau], lambda theta, step: theta["w"].sum(), Descent(60, 0.1), seed=0, init=0.3
    )
    assert (logits["w"][::2] > 0).all()
    assert (logits["w"][1::2] < 0).all()
    assert losses[-1] < losses[0] - 5
    mask = drawn_masks(logits, 0.5, 0, kind="hard")
    assert masked([tau], mask)[0]["w"].sum() < -30


def test_without_steps_the_logits_are_zero():
    logits, losses = learn_mask(BASE, VECTORS, entropy, Descent(0, 0.1), seed=0)
    assert losses == []
    assert logits.keys() == BASE.keys()
    assert not any(value.any() for value in logits.values())


def test_the_loss_of_the_first_step_is_that_of_the_first_draw():
    _, losses = learn_mask(BASE, VECTORS, entropy, Descent(1, 0.1), seed=3, init=0.3)
    zeros = {k: torch.zeros_like(v) for k, v in BASE.items()}
    masks = drawn_masks(zeros, 0.5, 3, "concrete", 0)
    theta = {k: BASE[k] + 0.3 * masks[k] * (VECTORS[0][k] + VECTORS[1][k]) for k in BASE}
    assert losses[0] == pytest.approx(entropy(theta, 0).item())


def test_the_inner_step_moves_the_coefficients_down_their_gradient():
    seen = []

    def outer(theta: Params, step: int) -> torch.Tensor:
        seen.append({k: v.detach().clone() for k, v in theta.items()})
        return entropy(theta, step)

    learn_mask(BASE, VECTORS, outer, Descent(1, 0.1), seed=3, init=0.3, inner=(entropy, 0.5))
    zeros = {k: torch.zeros_like(v) for k, v in BASE.items()}
    masks = drawn_masks(zeros, 0.5, 3, "concrete", 0)
    theta = {
        k: (BASE[k] + 0.3 * masks[k] * (VECTORS[0][k] + VECTORS[1][k])).requires_grad_()
        for k in BASE
    }
    gradients = torch.autograd.grad(entropy(theta, 0), list(theta.values()))
    for (name, base), gradient in zip(BASE.items(), gradients, strict=True):
        wanted = base.clone()
        for tau in VECTORS:
            c = 0.3 - 0.5 * (gradient * masks[name] * tau[name]).sum()
            wanted += c * masks[name] * tau[name]
        torch.testing.assert_close(seen[0][name], wanted)


def test_learning_is_deterministic_and_its_draws_follow_the_seed():
    once, again, other = (
        learn_mask(BASE, VECTORS, entropy, Descent(3, 0.1), seed=seed)[0] for seed in (1, 1, 2)
    )
    assert all(torch.equal(once[k], again[k]) for k in BASE)
    assert not all(torch.equal(once[k], other[k]) for k in BASE)


def test_zero_vectors_leave_the_logits():
    zero = {k: torch.zeros_like(v) for k, v in BASE.items()}
    logits, _ = learn_mask(BASE, [zero], entropy, Descent(2, 0.1), seed=0)
    assert not any(value.any() for value in logits.values())


def test_bad_requests_are_refused():
    with pytest.raises(UserError, match="temperature is 0: give a positive number"):
        learn_mask(BASE, VECTORS, entropy, Descent(1, 0.1), seed=0, temperature=0)
    broken = {k: v * math.nan for k, v in NAT.items()}
    with pytest.raises(UserError, match="learning diverged: loss is nan"):
        learn_mask(BASE, [broken], entropy, Descent(1, 0.1), seed=0)
