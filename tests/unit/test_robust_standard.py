"""FAB-T, Square, and further radii."""

import itertools

import pytest
import torch

from pistole.robust import ensemble
from pistole.robust.components import fab_t, square
from pistole.robust.spec import radius_name
from tests.unit.robust_models import (
    PerSample,
    Seen,
    attacked,
    linear_task,
    names,
    pictures,
    trained_net,
)

STANDARD = {"fab_t_steps": 20, "square_queries": 60}


def right(net, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net(x).argmax(1) == y


def test_fab_breaks_the_images_of_a_linear_classifier_that_can_be_broken():
    model, x, y, robust = linear_task(classes=5)
    clean = right(model, x, y)
    x, y, robust = x[clean], y[clean], robust[clean]
    alive = torch.ones_like(y, dtype=torch.bool)
    for target in (1, 2, 3, 4):
        found = fab_t(model, x, y, eps=0.01, steps=20, target=target, targets=4)
        assert (found - x).abs().max() <= 0.01
        moved = (found != x).flatten(1).any(1)
        assert not right(model, found[moved], y[moved]).any()
        alive &= ~moved
    assert torch.equal(alive, robust)
    assert 0.2 < robust.float().mean() < 0.9


def test_fab_where_there_is_no_gradient_returns_the_clean_image():
    class Flat(torch.nn.Module):
        def forward(self, x):
            return torch.eye(5)[[2]].expand(len(x), -1) + 0 * x.sum((1, 2, 3))[:, None]

    x, y = pictures(3)[0], torch.full((3,), 2)
    assert torch.equal(fab_t(Flat(), x, y, eps=0.1, steps=3, target=1, targets=4), x)


def test_square_stays_in_the_ball_and_breaks_more_with_more_queries():
    net, (x, y) = trained_net(), pictures(40)
    draws = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    counts = []
    for queries in (2, 150):
        found = square(net, x, y, draws, eps=0.14, queries=queries, seed=0)
        assert (found - x).abs().max() <= 0.14 + 1e-6
        assert found.min() >= 0
        assert found.max() <= 1
        counts.append(int((~right(net, found, y)).sum()))
    assert counts[0] + 5 <= counts[1] < 40


def test_square_depends_on_its_seed_and_the_draws_alone():
    net, (x, y) = PerSample(trained_net()), pictures(10)
    draws = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    state = torch.random.get_rng_state()
    effort = {"eps": 0.06, "queries": 40}
    whole = square(net, x, y, draws, seed=1, **effort)
    assert torch.equal(torch.random.get_rng_state(), state)
    alone = [square(net, *(p[i : i + 1] for p in (x, y, draws)), seed=1, **effort) for i in (3, 7)]
    assert torch.equal(torch.cat(alone), whole[[3, 7]])
    assert not torch.equal(square(net, x, y, draws, seed=2, **effort), whole)
    assert not torch.equal(square(net, x, y, 1 - draws, seed=1, **effort), whole)


@pytest.mark.parametrize("size", [64, 4])
def test_the_standard_ensemble_does_not_depend_on_batches_or_order(size):
    net, (x, y) = PerSample(trained_net()), pictures(16)
    effort = {"steps": 3, "radii": (0.05, 0.08), "batch_size": size, **STANDARD}
    whole = attacked(net, x, y, **effort).columns
    order = [5, 0, 11, 8, 2, 14]
    ids = [names(16)[i] for i in order]
    part = attacked(net, x[order], y[order], ids=ids, **effort).columns
    assert part == {name: [values[i] for i in order] for name, values in whole.items()}
    assert whole == attacked(net, x, y, **effort | {"batch_size": 7}).columns
    assert len(set(whole["broken_by"])) >= 2


def test_the_standard_ensemble_is_never_easier_and_names_what_broke():
    net, (x, y) = trained_net(), pictures(60)
    weak = {"apgd_ce_steps": 1, "targets": 1, "apgd_t_steps": 1}
    first = attacked(net, x, y, 0.07, **weak).columns
    seen = Seen()
    more = {"fab_t_steps": 30, "square_queries": 200, "on_batch": seen}
    every = attacked(net, x, y, 0.07, **weak, **more).columns
    for name in ("fgsm_correct", "apgd_ce_correct", "apgd_t_correct"):
        assert every[name] == first[name]
    assert first["robust_correct"] == first["square_correct"] == first["apgd_t_correct"]
    assert sum(every["fab_t_correct"]) < sum(first["apgd_t_correct"])
    broken = dict(zip(every["id"], every["broken_by"], strict=True))
    assert {broken[names(60)[i]] for i in seen.positions("square/0")} <= {"square", ""}
    assert every["robust_correct"] == every["square_correct"]


RADII = (0.04, 0.05, 0.07, 0.1)


def test_every_radius_is_reported_and_none_is_easier_than_a_smaller_one():
    net, (x, y) = trained_net(), pictures(40)
    # So few steps that an attack at the headline's radius misses what a smaller one finds.
    columns = attacked(net, x, y, 0.06, radii=RADII, steps=1, targets=1).columns
    alone = attacked(net, x, y, 0.06, steps=1, targets=1).columns
    for name in ("fgsm_correct", "apgd_ce_correct", "apgd_t_correct"):
        assert columns[name] == alone[name]
    masks = [columns["clean_correct"]]
    masks += [columns[f"robust_correct@{radius:g}"] for radius in RADII[:2]]
    masks += [columns["robust_correct"]]
    masks += [columns[f"robust_correct@{radius:g}"] for radius in RADII[2:]]
    for small, large in itertools.pairwise(masks):
        assert all(before or not after for before, after in zip(small, large, strict=True))
    counts = [sum(mask) for mask in masks]
    assert len(set(counts)) >= 5


def test_what_a_smaller_radius_broke_is_broken(monkeypatch):
    net, (x, y) = trained_net(), pictures(40)
    genuine = attacked(net, x, y, 0.05, steps=5).columns

    def only_small(model, x, y, draws, *, eps, **effort):
        return x if eps > 0.05 else genuine_ce(model, x, y, draws, eps=eps, **effort)

    genuine_ce = ensemble.apgd_ce
    monkeypatch.setattr(ensemble, "apgd_ce", only_small)
    monkeypatch.setattr("pistole.robust.cascade.fgsm", lambda x, gradient, eps: x)
    found = attacked(net, x, y, 0.06, radii=(0.05,), steps=5, targets=0).columns
    broken = [cause == "smaller_eps" for cause in found["broken_by"]]
    assert 3 <= sum(broken) < 40
    assert found["robust_correct"] == found["robust_correct@0.05"]
    assert all(found["apgd_ce_correct"])
    assert sum(genuine["robust_correct"]) <= sum(found["robust_correct"])


def test_radius_0_is_clean_accuracy():
    net, (x, y) = trained_net(), pictures(20)
    y[3] = (y[3] + 1) % 5
    columns = attacked(net, x, y, 0.06, radii=(0,), steps=2).columns
    assert columns["robust_correct@0/255"] == columns["clean_correct"]
    assert not columns["clean_correct"][3]
    columns = attacked(net, x, y, 0, radii=(0.06,), steps=2).columns
    assert columns["robust_correct"] == columns["clean_correct"]
    assert sum(columns["robust_correct@0.06"]) < sum(columns["robust_correct"])


def test_radii_are_named_as_papers_do():
    assert [radius_name(k / 255) for k in (0, 1, 4, 64, 255)] == [
        *("0/255", "1/255", "4/255", "64/255", "255/255"),
    ]
    assert radius_name(0.5 / 255) == "0.00196078"
