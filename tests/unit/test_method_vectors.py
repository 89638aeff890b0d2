"""Task vectors and the checks on named tensors (docs/method.md A.2)."""

import pytest
import torch

from pistole.errors import UserError
from pistole.method.vectors import task_vector, vector_statistics
from tests.unit.method_models import random_params


def test_the_task_vector_is_the_difference_in_fp32():
    theta_0, theta_s = random_params(0), random_params(1)
    half = {name: value.half() for name, value in theta_s.items()}
    tau = task_vector(half, theta_0)
    for name in theta_0:
        assert tau[name].dtype == torch.float32
        assert torch.equal(tau[name], half[name].float() - theta_0[name])


def test_nearly_equal_weights_keep_their_difference():
    theta_0 = {"w": torch.full((2, 2), 1.0)}
    tau = task_vector({"w": theta_0["w"] + 2**-20}, theta_0)
    assert torch.equal(tau["w"], torch.full((2, 2), 2.0**-20))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bias": None}, "'bias' is missing"),
        ({"extra": torch.zeros(2)}, "'extra' is not in"),
        ({"bias": torch.zeros(7)}, r"'bias' has shape \(7,\), not \(6,\)"),
        ({"bias": torch.full((6,), float("nan"))}, "'bias' is not finite"),
        ({"conv": torch.full((3, 2, 2), float("inf"))}, "'conv' is not finite"),
    ],
)
def test_a_model_that_does_not_fit_the_base_is_refused_by_name(change, words):
    theta_s = {k: v for k, v in (random_params(1) | change).items() if v is not None}
    with pytest.raises(UserError, match=words):
        task_vector(theta_s, random_params(0))


def test_a_base_with_nan_is_refused():
    base = random_params(0)
    base["weight"][0, 0] = float("nan")
    with pytest.raises(UserError, match="base: tensor 'weight' is not finite"):
        task_vector(random_params(1), base)


def test_statistics_of_two_vectors():
    tau_nat = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    tau_rob = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[-2.0]])}
    found = vector_statistics(tau_nat, tau_rob)
    assert found["norm_natural"] == 5
    assert found["norm_robust"] == 3
    assert found["cosine"] == pytest.approx((3 - 8) / 15)
    assert found["sign_agreement"] == 0.5  # the coordinate with a 0 takes no side


def test_statistics_of_a_zero_vector_are_finite():
    zero = {"a": torch.zeros(3)}
    found = vector_statistics(zero, {"a": torch.ones(3)})
    assert (found["cosine"], found["sign_agreement"], found["norm_natural"]) == (0, 0, 0)


def test_statistics_refuse_nan():
    with pytest.raises(UserError, match="robust task vector: tensor 'a'"):
        vector_statistics({"a": torch.ones(1)}, {"a": torch.tensor([float("nan")])})


def test_signs_are_compared_where_both_coordinates_moved():
    tau_nat = {"w": torch.tensor([1.0, 1.0, -1.0, 0.0, 2.0, 0.0])}
    tau_rob = {"w": torch.tensor([3.0, -1.0, -2.0, 5.0, 0.0, 0.0])}
    assert vector_statistics(tau_nat, tau_rob)["sign_agreement"] == pytest.approx(2 / 3)


def test_messages_name_the_model():
    whole, part = {"a": torch.ones(1), "b": torch.ones(1)}, {"a": torch.ones(1)}
    nan = {"a": torch.ones(1), "b": torch.tensor([float("nan")])}
    remedy = "'b' is missing: give tensors of one and the same architecture$"
    for call, words in (
        (lambda: task_vector(part, whole), f"^fine-tuned model: tensor {remedy}"),
        (lambda: task_vector(nan, whole), "^fine-tuned model: tensor 'b' is not finite"),
        (lambda: vector_statistics(whole, part), f"^robust task vector: tensor {remedy}"),
        (lambda: vector_statistics(nan, whole), "^natural task vector: tensor 'b' is not finite"),
    ):
        with pytest.raises(UserError, match=words):
            call()
