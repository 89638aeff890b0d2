"""Objectives: what loss each one is."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from pistole.errors import UserError
from pistole.robust.objectives import OBJECTIVES, objective_named
from pistole.robust.pgd import Budget, pgd
from pistole.seeds import generator
from tests.unit.robust_models import CLASSES, pictures, trained_net

BUDGET = Budget(eps=0.07, alpha=0.03, steps=3, init="uniform_eps")


def test_erm_is_the_cross_entropy_of_clean_images():
    net, (x, y) = trained_net(), pictures(10)
    y[:3] = (y[:3] + 1) % CLASSES
    source = generator(0)
    before = source.get_state()
    loss, found = OBJECTIVES["erm"](net, x, y, BUDGET, source)
    assert torch.equal(loss, cross_entropy(net(x), y))
    assert found == {"accuracy": pytest.approx(0.7)}
    assert torch.equal(source.get_state(), before)


def test_tecoa_is_the_cross_entropy_of_adversarial_images():
    net, (x, y) = trained_net(), pictures(40)
    loss, found = OBJECTIVES["tecoa"](net, x, y, BUDGET, generator(0))
    attacked = pgd(net, x, y, BUDGET, generator=generator(0))
    assert torch.equal(loss, cross_entropy(net(attacked), y))
    assert found == {"accuracy": (net(attacked).argmax(1) == y).float().mean().item()}
    assert 0.2 < found["accuracy"] < 0.8 < (net(x).argmax(1) == y).float().mean()
    (gradient,) = torch.autograd.grad(loss, net.conv.weight)
    assert gradient.any()


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="is 'trades': choose one of erm, tecoa"):
        objective_named("trades")
