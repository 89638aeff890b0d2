"""Learned coefficients, as of AdaMerging and aTLAS (docs/method.md C)."""

import math

import pytest
import torch

from pistole.baselines.adamerging import (
    DESCENT,
    INIT,
    LayerWiseAdaMerging,
    MixedLayerWiseAdaMerging,
    MixedTaskWiseAdaMerging,
    TaskWiseAdaMerging,
)
from pistole.baselines.atlas import Atlas
from pistole.baselines.coefficients import (
    composed,
    learn_coefficients,
    learned,
    named,
    partition,
    spread,
)
from pistole.baselines.learning import Descent, mean_entropy
from pistole.errors import UserError
from tests.unit.method_models import Params, log_softmax, mlp, random_params, samples

RULES = (
    LayerWiseAdaMerging,
    TaskWiseAdaMerging,
    MixedLayerWiseAdaMerging,
    MixedTaskWiseAdaMerging,
    Atlas,
)
BASE, NAT, ROB = (mlp(seed) for seed in range(3))
VECTORS = ({k: 0.3 * v for k, v in NAT.items()}, {k: 0.3 * v for k, v in ROB.items()})
X, Y = samples(12)


def entropy(theta: Params, step: int) -> torch.Tensor:
    return mean_entropy(log_softmax(theta, X))


def cross_entropy(theta: Params, step: int) -> torch.Tensor:
    return -log_softmax(theta, X).gather(1, Y[:, None]).mean()


def single(params: Params) -> Params:
    return {name: value.float() for name, value in params.items()}


def test_official_defaults():
    assert (0.3, Descent(steps=500, lr=1e-3, weight_decay=0, clip=None)) == (INIT, DESCENT)
    needs = [rule.needs for rule in RULES]
    assert needs == ["ada_layer", "ada_task", "ada_layer_mix", "ada_task_mix", "atlas"]
    assert all(rule().scaling == 1 for rule in RULES)


@pytest.mark.parametrize("rule", RULES)
def test_the_merge_is_the_literal_sum(rule):
    base, *vectors = (random_params(seed) for seed in range(3))
    values = {
        f"{s}/{n}": random_params(9, **{s + n: (1,)})[s + n]
        for s in ("natural", "robust")
        for n in base
    }
    found = rule(statistics=values, scaling=0.7)(base, vectors, (0.25, 2))
    for name in base:
        a, b = values[f"natural/{name}"].double(), values[f"robust/{name}"].double()
        nat, rob = vectors[0][name].double(), vectors[1][name].double()
        wanted = base[name].double() + 0.7 * (0.25 * a * nat + 2 * b * rob)
        torch.testing.assert_close(found[name].double(), wanted, atol=1e-6, rtol=1e-6)


def test_at_unit_weights_the_rule_is_the_learned_merge():
    coefficients, _ = learn_coefficients(
        BASE, VECTORS, entropy, Descent(5, 0.05), grain="layer", init=0.3, parts=2
    )
    wanted = composed(BASE, VECTORS, coefficients)
    rule = LayerWiseAdaMerging(statistics=single(named(coefficients, list(BASE))))
    found = rule(single(BASE), [single(v) for v in VECTORS], (1, 1))
    for name in BASE:
        torch.testing.assert_close(found[name].double(), wanted[name], atol=1e-6, rtol=1e-5)


def test_a_scalar_statistic_is_taken_too():
    base, tau = random_params(0), random_params(1)
    values = {f"natural/{name}": torch.tensor(0.5) for name in base}
    found = TaskWiseAdaMerging(statistics=values)(base, [tau], (1,))
    assert all(torch.equal(found[k], base[k] + 0.5 * tau[k]) for k in base)


def test_zero_vectors_and_zero_weights_leave_the_base():
    base, tau = random_params(0), random_params(1)
    zero = {k: torch.zeros_like(v) for k, v in base.items()}
    values = named(torch.full((2, 1, 1), 0.4), list(base))
    rule = LayerWiseAdaMerging(statistics=values)
    for found in (rule(base, (zero, zero), (1, 1)), rule(base, (tau, tau), (0, 0))):
        assert all(torch.equal(found[k], base[k]) for k in base)


def test_a_third_vector_has_no_coefficient():
    base, tau = random_params(0), random_params(1)
    values = named(torch.full((2, 1, 1), 0.4), list(base))
    with pytest.raises(UserError, match="3 task vectors, but the coefficients of 'atlas'"):
        Atlas(statistics=values)(base, (tau, tau, tau), (1, 1, 1))


def test_missing_and_broken_statistics_are_refused():
    base, tau = random_params(0), random_params(1)
    with pytest.raises(UserError, match=r"'natural/weight'"):
        Atlas()(base, (tau, tau), (1, 1))
    rule = Atlas(statistics={"natural/weight": torch.tensor(math.nan)})
    with pytest.raises(UserError, match=r"'natural/weight' is not finite .* prepare 'atlas'"):
        learned(rule, "natural/weight")


@pytest.mark.parametrize("grain", ["task", "layer"])
def test_the_gradient_of_a_coefficient_is_an_inner_product(grain):
    rows = len(BASE) if grain == "layer" else 1
    source = torch.Generator().manual_seed(4)
    coefficients = torch.rand(2, rows, 1, generator=source, dtype=torch.float64).requires_grad_()
    (found,) = torch.autograd.grad(entropy(composed(BASE, VECTORS, coefficients), 0), coefficients)
    theta = {
        k: v.detach().requires_grad_() for k, v in composed(BASE, VECTORS, coefficients).items()
    }
    gradient = dict(
        zip(theta, torch.autograd.grad(entropy(theta, 0), list(theta.values())), strict=True)
    )
    products = torch.stack([
        torch.stack([(gradient[k] * vector[k]).sum() for k in BASE]) for vector in VECTORS
    ])[:, :, None]  # fmt: skip
    wanted = products if grain == "layer" else products.sum(1, keepdim=True)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("loss", [entropy, cross_entropy])
def test_the_optimum_of_two_coefficients_is_that_of_a_grid(loss):
    axis = torch.linspace(0, 1, 21, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis).reshape(-1, 2, 1, 1)
    values = torch.vmap(lambda c: loss(composed(BASE, VECTORS, c), 0))(grid)
    at = divmod(int(values.argmin()), len(axis))
    coefficients, losses = learn_coefficients(
        BASE, VECTORS, loss, Descent(150, 0.03), grain="task", init=0.3, clamp=True
    )
    wanted = axis[list(at)]
    torch.testing.assert_close(coefficients.flatten(), wanted, atol=0.051, rtol=0)
    assert losses[-1] <= values.min() + 1e-4
    assert losses[0] > values.min() + 1e-3


def test_the_optimum_of_two_parameters_is_known():
    # theta = (1, 1) + c (2, 0) + d (0, -4), loss = |theta - (2, 3)|^2: c = 1/2, d = -1/2.
    base = {"a": torch.tensor([1.0]).double(), "b": torch.tensor([1.0]).double()}
    vectors = (
        {"a": torch.tensor([2.0]).double(), "b": torch.tensor([0.0]).double()},
        {"a": torch.tensor([0.0]).double(), "b": torch.tensor([-4.0]).double()},
    )

    def loss(theta: Params, step: int) -> torch.Tensor:
        return ((theta["a"] - 2).square() + (theta["b"] - 3).square()).sum()

    free, _ = learn_coefficients(base, vectors, loss, Descent(400, 0.02), grain="task", init=0.3)
    assert free.flatten().tolist() == pytest.approx([0.5, -0.5], abs=1e-3)
    held, _ = learn_coefficients(
        base, vectors, loss, Descent(400, 0.02), grain="task", init=0.3, clamp=True
    )
    assert held.flatten().tolist() == pytest.approx([0.5, 0.0], abs=1e-3)
    assert held.min() >= 0


def test_a_clamped_coefficient_can_come_back():
    # The released code clamps in the forward pass: outside [0, 1] there is no gradient.
    base = {"a": torch.zeros(1, dtype=torch.float64)}
    tau = {"a": torch.ones(1, dtype=torch.float64)}

    def loss(theta: Params, step: int) -> torch.Tensor:
        return -theta["a"].sum() if step < 20 else theta["a"].sum()

    options = {"grain": "task", "init": 0.95, "clamp": True}
    at_bound, _ = learn_coefficients(base, [tau], loss, Descent(20, 0.01), **options)
    assert at_bound.item() == 1
    returned, _ = learn_coefficients(base, [tau], loss, Descent(60, 0.01), **options)
    assert returned.item() < 0.9


def test_layers_get_coefficients_of_their_own():
    coefficients, _ = learn_coefficients(
        BASE, VECTORS, entropy, Descent(20, 0.01), grain="layer", init=0.3
    )
    assert coefficients.shape == (2, len(BASE), 1)
    assert len(set(coefficients.flatten().tolist())) == 2 * len(BASE)
    values = named(coefficients, list(BASE))
    assert values["robust/1.bias"] == coefficients[1, list(BASE).index("1.bias")]


def test_a_zero_vector_keeps_its_coefficient():
    zero = {k: torch.zeros_like(v) for k, v in BASE.items()}
    coefficients, losses = learn_coefficients(
        BASE, [zero, zero], entropy, Descent(10, 0.1), grain="layer", init=0.3
    )
    assert (coefficients == 0.3).all()
    assert len(set(losses)) == 1


def test_a_partition_is_balanced_and_depends_on_the_name_alone():
    parts = partition("weight", (6, 5), 4)
    assert parts.shape == (6, 5)
    assert sorted(parts.flatten().bincount().tolist()) == [7, 7, 8, 8]
    assert torch.equal(parts, partition("weight", (6, 5), 4))
    assert not torch.equal(parts, partition("other", (6, 5), 4))
    assert partition("one", (1,), 4).tolist() == [0]
    assert partition("scalar", (), 3).shape == ()


def test_parts_have_coefficients_of_their_own():
    # loss = |theta - target|^2: each part's optimum is the mean of the target over the part.
    base = {"w": torch.zeros(6, 5, dtype=torch.float64)}
    tau = {"w": torch.ones(6, 5, dtype=torch.float64)}
    target = random_params(3, torch.float64, w=(6, 5))["w"]
    coefficients, _ = learn_coefficients(
        base, [tau], lambda theta, step: (theta["w"] - target).square().sum(),
        Descent(500, 0.03), grain="layer", init=0.0, parts=3,
    )  # fmt: skip
    parts = partition("w", (6, 5), 3)
    wanted = torch.stack([target[parts == k].mean() for k in range(3)])
    torch.testing.assert_close(coefficients[0, 0], wanted, atol=1e-3, rtol=0)
    assert torch.equal(spread(coefficients[0, 0], "w", (6, 5)), coefficients[0, 0][parts])


def test_learning_is_deterministic():
    options = {"grain": "layer", "init": 0.3, "parts": 2}
    once, again = (
        learn_coefficients(BASE, VECTORS, entropy, Descent(5, 0.01), **options)[0] for _ in range(2)
    )
    assert torch.equal(once, again)


def test_bad_requests_are_refused():
    def ask(vectors=VECTORS, **options):
        options = {"grain": "layer", "init": 0.3, **options}
        learn_coefficients(BASE, vectors, entropy, Descent(1, 0.1), **options)

    with pytest.raises(UserError, match="grain is 'block': choose one of task, layer"):
        ask(grain="block")
    with pytest.raises(UserError, match="parts is 2 with grain 'task'"):
        ask(grain="task", parts=2)
    with pytest.raises(UserError, match="parts is 0"):
        ask(parts=0)
    with pytest.raises(UserError, match="0 task vectors"):
        ask(vectors=())
    broken = {k: v * math.nan for k, v in NAT.items()}
    with pytest.raises(UserError, match="learning diverged: loss is nan"):
        ask(vectors=(broken,))
