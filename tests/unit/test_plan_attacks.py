"""Passes of the attacks, counted at a model of a few weights."""

import pytest
import torch
from robust_models import CLASSES, SIDE, fresh_net, pictures

from pistole.plan.attacks import (
    EVERY,
    Survival,
    attacked,
    ensemble,
    expected_ensemble,
    pgd,
    targets,
)
from pistole.plan.work import FORWARD, IMAGE, by_kind, forward_equivalents, images_forward
from pistole.robust import pgd as attack
from pistole.robust.ensemble import EnsembleSpec, evaluate

SPEC = EnsembleSpec(
    eps=2 / 255,
    apgd_ce_steps=3,
    apgd_ce_restarts=2,
    apgd_t_steps=2,
    apgd_t_restarts=2,
    targets=3,
    batch_size=7,
)


def counting(model: torch.nn.Module) -> dict[str, int]:
    """Count images by whether their pass can be differentiated."""
    found = {FORWARD: 0, IMAGE: 0}

    def hook(module: torch.nn.Module, inputs: tuple, logits: torch.Tensor) -> None:
        found[IMAGE if logits.requires_grad else FORWARD] += len(logits)

    model.register_forward_hook(hook)
    return found


def test_the_ensemble_spends_what_its_attempts_meet():
    model, (x, y) = fresh_net(scale=4.0), pictures(40)
    with torch.no_grad():
        y = model(x).argmax(1).where(torch.arange(40) % 5 > 0, y)  # so that most are right
        right = int((model(x).argmax(1) == y).sum())
    seen = counting(model)
    met: dict[str, int] = {}

    def on_batch(name: str, part: torch.Tensor, adversarial: torch.Tensor) -> None:
        met[name] = met.get(name, 0) + len(part)

    ids = [str(i) for i in range(40)]
    evaluate(model, x, y, ids, SPEC, seed=0, dataset="d", on_batch=on_batch)
    names = [f"apgd_ce/{r}" for r in range(2)]
    names += [f"apgd_t/{t}/{r}" for t in (1, 2, 3) for r in range(2)]
    meets = [met.get(name, 0) for name in names]
    assert meets[0] == right
    assert 0 < meets[-1] < meets[0]  # early exits play a part in this test
    assert by_kind(ensemble(40, right, meets, SPEC)) == seen
    bound = by_kind(expected_ensemble(40, SPEC, CLASSES, EVERY))
    assert all(seen[kind] < bound[kind] for kind in seen)


def test_expected_attempts_follow_the_shares():
    share = Survival(clean=0.8, ce=0.5, t=0.4)
    assert attacked(10, SPEC, CLASSES, share) == pytest.approx([8, 5, 5, 4, 4, 4, 4, 4])
    assert attacked(10, SPEC, 3, share) == pytest.approx([8, 5])


@pytest.mark.parametrize(("classes", "count"), [(2, 0), (3, 0), (4, 3), (None, 3)])
def test_apgd_t_has_targets_where_its_loss_has_classes(classes, count):
    assert targets(SPEC, classes) == count


def test_without_a_radius_only_clean_images_are_seen():
    model, (x, y) = fresh_net(), pictures(10)
    spec = EnsembleSpec(eps=0, batch_size=4)
    seen = counting(model)
    evaluate(model, x, y, [str(i) for i in range(10)], spec, seed=0, dataset="d")
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
