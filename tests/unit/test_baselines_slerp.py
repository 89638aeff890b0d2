"""Spherical interpolation per tensor (docs/method.md C)."""

import math

import pytest
import torch

from pistole.baselines.linear import Linear
from pistole.baselines.slerp import Slerp, slerp
from pistole.errors import UserError
from tests.unit.baselines_models import check_rule, close, same, sources, zeros


def literal(a, b, t):
    """From unit vectors and an angle by atan2, not arccos."""
    u, v = a / a.norm(), b / b.norm()
    phi = 2 * math.atan2((u - v).norm().item(), (u + v).norm().item())
    if abs(math.cos(phi)) > 0.9995:
        return (1 - t) * a + t * b
    return (math.sin((1 - t) * phi) * a + math.sin(t * phi) * b) / math.sin(phi)


@pytest.mark.parametrize("space", ["models", "vectors"])
@pytest.mark.parametrize(("weights", "t"), [((1, 1), 0.5), ((0.2, 0.8), 0.8), ((3, 1), 0.25)])
def test_every_tensor_has_its_own_sphere(space, weights, t):
    base, (nat, rob) = sources()
    found = Slerp(space=space, scaling=0.7)(base, [nat, rob], weights)
    for name, value in base.items():
        theta = value.double()
        start = theta if space == "models" else torch.zeros_like(theta)
        there = literal(start + nat[name], start + rob[name], t) - start
        assert torch.allclose(found[name].double(), theta + 0.7 * there, atol=1e-6)


@pytest.mark.parametrize("space", ["models", "vectors"])
def test_the_ends_are_the_two_models(space):
    base, vectors = sources()
    for weights, end in (((1, 0), vectors[0]), ((0, 1), vectors[1])):
        expected = {k: v + end[k] for k, v in base.items()}
        assert close(Slerp(space=space)(base, vectors, weights), expected)


def test_the_norm_is_kept_on_the_sphere():
    a, b = (torch.randn(20, generator=torch.Generator().manual_seed(s)).double() for s in (0, 1))
    a, b = a / a.norm(), b / b.norm()
    for t in (0.1, 0.5, 0.9):
        between = slerp(a, b, t)
        assert between.norm().item() == pytest.approx(1)
        angle = math.acos((a @ b).item())
        assert math.acos((a @ between).item()) == pytest.approx(t * angle)


@pytest.mark.parametrize("factor", [1.0, 1.001, -1.0, -2.0])
def test_colinear_tensors_are_interpolated_straight(factor):
    a = torch.linspace(-1, 2, 7).double()
    found = slerp(a, factor * a, 0.25)
    assert torch.equal(found, 0.75 * a + 0.25 * factor * a)
    base, (tau, _) = sources()
    small = {k: v * 1e-4 for k, v in tau.items()}
    assert close(
        Slerp()(base, [small, tau | small], (0.3, 0.7)), Linear()(base, [small, small], (0.3, 0.7))
    )


def test_the_threshold_is_mergekits():
    assert Slerp() == Slerp(space="models", scaling=1.0)
    a = torch.tensor([1.0, 0.0]).double()
    for cosine, straight in ((0.9994, False), (0.9996, True), (-0.9994, False), (-0.9996, True)):
        b = torch.tensor([cosine, math.sqrt(1 - cosine**2)]).double()
        assert torch.equal(slerp(a, b, 0.5), 0.5 * a + 0.5 * b) == straight


def test_just_off_the_threshold_both_ways_agree():
    for cosine in (0.99949, 0.99951):
        a = torch.tensor([1.0, 0.0]).double()
        b = torch.tensor([cosine, math.sqrt(1 - cosine**2)]).double()
        assert torch.allclose(slerp(a, b, 0.3), 0.7 * a + 0.3 * b, atol=2e-4)


def test_zero_counts_as_orthogonal():
    a, zero = torch.tensor([3.0, 4.0]).double(), torch.zeros(2).double()
    assert torch.allclose(slerp(a, zero, 0.5), a * math.sqrt(0.5))
    assert torch.equal(slerp(zero, zero, 0.5), zero)
    assert torch.allclose(slerp(a, a * 1e-10, 0.5), a * math.sqrt(0.5))  # so short: no direction


@pytest.mark.parametrize("space", ["models", "vectors"])
def test_slerp_keeps_what_holds_for_every_rule(space):
    check_rule(lambda: Slerp(space=space), 2)
    base, vectors = sources()
    left = Slerp(space=space)(base, vectors, (0.25, 0.75))
    assert close(left, Slerp(space=space)(base, vectors[::-1], (0.75, 0.25)))
    assert same(left, Slerp(space=space)(base, vectors, (1, 3)))
    assert same(Slerp(space=space, scaling=0)(base, vectors, (1, 1)), base)
    assert same(Slerp(space="vectors")(zeros(base), vectors, (1, 1)), Slerp()(
        zeros(base), vectors, (1, 1)
    ))  # fmt: skip


def test_what_is_no_pair_is_refused():
    base, vectors = sources(3)
    for count in (1, 3):
        with pytest.raises(UserError, match=f"SLERP got {count} task vectors: give exactly 2"):
            Slerp()(base, vectors[:count], (1,) * count)
    for weights in ((0, 0), (-1, 2), (1, -0.5)):
        with pytest.raises(UserError, match="SLERP got the weights"):
            Slerp()(base, vectors[:2], weights)
    with pytest.raises(UserError, match="space is 'ball'"):
        Slerp(space="ball")
