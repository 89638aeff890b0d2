"""Passes of the attacks, counted at a model of a few weights."""

from dataclasses import replace

import pytest
import torch
from robust_models import CLASSES, SIDE, fresh_net, names, pictures

from pistole.plan.attacks import ensemble, expected_ensemble, ladder, pgd
from pistole.plan.survival import EVERY, Attempt, Survival, attempts
from pistole.plan.work import FORWARD, IMAGE, by_kind, forward_equivalents, images_forward
from pistole.robust import pgd as attack
from pistole.robust.ensemble import EnsembleSpec, evaluate
from pistole.robust.guards import climb
from tests.attempts import recorded

SPEC = EnsembleSpec(
    eps=12 / 255,
    apgd_ce_steps=3,
    apgd_ce_restarts=2,
    apgd_t_steps=2,
    apgd_t_restarts=2,
    targets=3,
    batch_size=7,
)
FULL = replace(SPEC, radii=(4 / 255, 8 / 255, 20 / 255), fab_t_steps=2, square_queries=5)


class Wavy(torch.nn.Module):
    """Pixels ripple before a net sees them, so that a single step misleads less than many."""

    def __init__(self) -> None:
        super().__init__()
        self.net = fresh_net(scale=4.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x + 0.03 * torch.sin(400 * x))


def counting(model: torch.nn.Module) -> dict[str, int]:
    """Count images by whether their pass can be differentiated."""
    found = {FORWARD: 0, IMAGE: 0}

    def hook(module: torch.nn.Module, inputs: tuple, logits: torch.Tensor) -> None:
        found[IMAGE if logits.requires_grad else FORWARD] += len(logits)

    model.register_forward_hook(hook)
    return found


def some_wrong(model: torch.nn.Module, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures of which the model gets a fifth wrong."""
    x = pictures(count)[0]
    with torch.no_grad():
        guessed = model(x).argmax(1)
    return x, torch.where(torch.arange(count) % 5 > 0, guessed, (guessed + 1) % CLASSES)


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, radii=FULL.radii)], ids=["one", "four"])
def test_the_ensemble_spends_what_its_attempts_meet(spec: EnsembleSpec):
    model = Wavy().eval()
    x, y = some_wrong(model, 60)
    seen = counting(model)
    with recorded() as record:
        evaluate(model, x, y, names(60), spec, seed=0, dataset="d")
    for name in ("fgsm", "apgd_ce", "apgd_t"):  # early exits play a part in this test
        met, broken = (
            sum(getattr(a, key) for a in record.attempts if a.name == name)
            for key in ("images", "broken")
        )
        assert 0 < broken < met
    assert record.late
    found = by_kind(ensemble(60, record.attempts, spec))
    assert found == pytest.approx({IMAGE: seen[IMAGE], FORWARD: seen[FORWARD] - record.late})
    bound = by_kind(expected_ensemble(60, spec, CLASSES, EVERY))
    assert all(seen[kind] < bound[kind] for kind in seen)


def test_what_survives_everything_costs_every_pass():
    model = fresh_net()
    with torch.no_grad():
        model.head.bias[0] = 20.0  # no image is anything else
    x, y = pictures(10)[0], torch.zeros(10, dtype=torch.long)
    seen = counting(model)
    evaluate(model, x, y, names(10), FULL, seed=0, dataset="d")
    assert by_kind(ensemble(10, attempts(10, FULL, CLASSES, EVERY), FULL)) == pytest.approx(seen)


def test_expected_attempts_follow_the_shares():
    share = Survival(clean=0.8, fgsm=0.6, ce=0.5, t=0.4)
    found = attempts(10, SPEC, CLASSES, share)
    assert [a.name for a in found] == ["fgsm", *["apgd_ce"] * 2, *["apgd_t"] * 6]
    assert [a.images for a in found] == pytest.approx([8, 6, 5, 5, 4, 4, 4, 4, 4])
    assert [a.broken for a in found] == pytest.approx([2, 1, 0, 1, 0, 0, 0, 0, 0])
    few = attempts(10, replace(SPEC, fab_t_steps=2), 3, share)
    assert few[-2:] == [Attempt("fab_t", 5)] * 2  # what APGD-CE leaves, at both other classes
    assert [a.images for a in few[:3]] == pytest.approx([8, 6, 5])


def test_radii_meet_what_the_smaller_one_left():
    spec = replace(SPEC, eps=2 / 255, radii=(1 / 255, 4 / 255), apgd_ce_restarts=1, targets=0)
    share = Survival(clean=0.81, fgsm=0.81, ce=0.36, t=0.2)
    met = [a.images for a in attempts(100, spec, CLASSES, share)]
    # Right at 1/255: 0.81 * (0.36 / 0.81) ** (1 / 2) = 0.54; at 4/255 0.81 * (0.36 / 0.81) ** 2.
    assert met == pytest.approx([81, 81, 81, 81, 36, 36])
    again = attempts(100, replace(spec, radii=(1 / 255, 1.5 / 255)), CLASSES, share)
    assert [a.images for a in again if a.name == "fgsm"] == pytest.approx([81, 54, 81])


def test_all_of_a_fragile_model_is_gone_at_any_radius():
    assert Survival(0.7, 0.2, 0, 0).at(0.5).t == 0
    assert Survival(0, 0, 0, 0).at(2) == Survival(0, 0, 0, 0)
    assert EVERY.at(0.5) == EVERY.at(4) == EVERY


def test_the_ladder_takes_its_rungs():
    model = fresh_net()
    x, y = pictures(6)
    with torch.no_grad():
        y = model(x).argmax(1)
        model.head.bias[0] = 20.0
    seen, none = counting(model), torch.zeros(6, dtype=torch.bool)
    climb(model, x, y, names(6), none, none, eps=2 / 255, seed=0)
    standing = int((y == 0).sum())  # all others are wrong when clean
    assert 0 < standing < 6
    assert by_kind(ladder(6, standing)) == seen


@pytest.mark.parametrize(("classes", "count"), [(2, 0), (3, 0), (4, 3), (None, 3)])
def test_apgd_t_has_targets_where_its_loss_has_classes(classes, count):
    assert SPEC.targets_of(classes) == count


def test_without_a_radius_only_clean_images_are_seen():
    model, (x, y) = fresh_net(), pictures(10)
    spec = EnsembleSpec(eps=0, batch_size=4)
    seen = counting(model)
    evaluate(model, x, y, names(10), spec, seed=0, dataset="d")
    assert seen[IMAGE] == 0
    assert by_kind(expected_ensemble(10, spec, CLASSES, EVERY)) == {FORWARD: seen[FORWARD]}


@pytest.mark.parametrize("eps", [0, 2 / 255])
def test_pgd_takes_a_gradient_per_step(eps: float):
    budget = attack.Budget(eps=eps, alpha=1 / 255, steps=4, init="zero")
    model, (x, y) = fresh_net(), pictures(6)
    seen = counting(model)
    attack.pgd(model, x, y, budget, noise=torch.zeros(6, 3, SIDE, SIDE))
    works = pgd(6, budget, 6)
    assert images_forward(works) == seen[IMAGE]
    assert forward_equivalents(works) == 3 * seen[IMAGE]
