"""What an evaluation leaves as it was, and under which conditions it attacks."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from pistole.errors import UserError
from tests.unit.robust_models import attacked, pictures, trained_net


def global_states() -> list:
    kind, words, *rest = np.random.get_state()
    return [torch.random.get_rng_state().tolist(), kind, words.tolist(), rest, random.getstate()]


@pytest.mark.parametrize("fails", [False, True])
def test_flags_and_buffers_come_back(fails):
    net = trained_net()
    net.train()
    net.norm.eval()  # frozen by the caller, while its parent trains
    net.conv.bias.requires_grad_(False)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    inside = set()

    def probe(module, inputs):
        differentiated = any(parameter.requires_grad for parameter in net.parameters())
        inside.add((any(part.training for part in net.modules()), differentiated))

    net.register_forward_pre_hook(probe)

    def fail(*_):
        raise KeyError

    if fails:
        with pytest.raises(KeyError):
            attacked(net, *pictures(10), on_batch=fail)
    else:
        attacked(net, *pictures(10))
    assert inside == {(False, False)}
    parts = (net, net.conv, net.norm, net.dropout)
    assert [part.training for part in parts] == [True, True, False, True]
    without = [name for name, value in net.named_parameters() if not value.requires_grad]
    assert without == ["conv.bias"]
    with_gradient = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    assert with_gradient.keys() == {"head.weight"}
    assert with_gradient["head.weight"].eq(1).all()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("varies", [False, True])
def test_global_generators_are_left_alone(varies):
    class Varying(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :5] + torch.rand(5)

    before = global_states()
    if varies:
        with pytest.raises(UserError, match="two forward passes differ"):
            attacked(Varying(), *pictures(10))
    else:
        attacked(trained_net(), *pictures(10))
    assert global_states() == before


def test_precision_inside_is_fp32():
    net, (x, y) = trained_net(), pictures(20)
    expected = attacked(net, x, y)
    inside = []

    def conditions() -> tuple:
        kernels = torch.backends.cudnn
        return (
            torch.is_autocast_enabled("cpu"),
            torch.get_float32_matmul_precision(),
            (kernels.allow_tf32, kernels.benchmark, kernels.deterministic),
        )

    def probe(module, inputs, logits):
        inside.append((logits.dtype, *conditions()))

    net.register_forward_hook(probe)
    usual = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with (
            torch.autocast("cpu", dtype=torch.bfloat16),
            torch.backends.cudnn.flags(benchmark=True, deterministic=False, allow_tf32=True),
            torch.no_grad(),
        ):
            found = attacked(net, x, y)
            assert conditions() == (True, "medium", (True, True, False))
    finally:
        torch.set_float32_matmul_precision(usual)
    assert found == expected
    assert set(inside) == {(torch.float32, False, "highest", (False, False, True))}
