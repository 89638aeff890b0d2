"""Robust accuracy: exact where it has a closed form, and the same whatever the batches are."""

import pytest
import torch
from torch import nn

from pistole.robust import ensemble
from pistole.robust.pgd import cross_entropy_gradient
from tests.unit.robust_models import (
    PerSample,
    Seen,
    attacked,
    linear_task,
    names,
    pictures,
    trained_net,
)

SATURATION = (
    "EV01: {} of the images have no cross-entropy gradient: APGD-CE is weak there "
    "(docs/errors.md#ev01)"
)


def task(n: int = 30) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A net and pictures of which two have the wrong label."""
    x, y = pictures(n)
    y[[1, 7]] = (y[[1, 7]] + 1) % 5
    return trained_net(), x, y


def test_eps_zero_is_clean_accuracy():
    net, x, y = task()
    seen = Seen()
    found = attacked(net, x, y, 0, on_batch=seen)
    clean = (net(x).argmax(1) == y).tolist()
    assert found.columns["robust_correct"] == found.columns["clean_correct"] == clean
    assert sum(clean) == 28
    assert found.columns["clean_prediction"] == net(x).argmax(1).tolist()
    assert found.columns["broken_by"] == ["" if right else "clean" for right in clean]
    assert seen.images == {}
    assert found.notes == ()


def test_eps_one_breaks_everything():
    net, x, y = task()
    found = attacked(net, x, y, 1, steps=5)
    assert not any(found.columns["robust_correct"])
    assert sum(found.columns["clean_correct"]) == 28


def test_a_larger_ball_is_never_easier():
    net, x, y = task()
    radii = (0, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.12, 0.5, 1)
    counts = [sum(attacked(net, x, y, eps).columns["robust_correct"]) for eps in radii]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == 28
    assert counts[-1] == 0
    assert len(set(counts)) >= 5


def test_an_image_that_is_wrong_when_clean_is_broken_and_not_attacked():
    net, x, y = task()
    seen = Seen()
    columns = attacked(net, x, y, on_batch=seen).columns
    assert seen.positions("fgsm") == set(range(30)) - {1, 7}
    for position in (1, 7):
        assert columns["broken_by"][position] == "clean"
        assert not columns["robust_correct"][position]
        assert not columns["apgd_ce_correct"][position]


def test_each_attempt_sees_the_survivors_of_those_before_it():
    model, x, y, _ = linear_task(classes=5)
    seen = Seen()
    columns = attacked(model, x, y, 0.01, batch_size=7, on_batch=seen).columns
    alive = {i for i, right in enumerate(columns["clean_correct"]) if right}
    after = {}
    for attempt in ("fgsm", *seen.attempts()):
        assert seen.positions(attempt) == alive
        pictured = {i: model(seen.images[attempt, i][None]).argmax().item() for i in alive}
        alive = {i for i in alive if pictured[i] == y[i]}
        after[attempt] = [i in alive for i in range(60)]
    assert seen.attempts() == ["apgd_ce/0", *(f"apgd_t/{k}/0" for k in (1, 2, 3, 4))]
    assert columns["apgd_ce_correct"] == after["apgd_ce/0"]
    assert columns["robust_correct"] == columns["apgd_t_correct"] == after["apgd_t/4/0"]
    assert max(seen.sizes) == 7


def test_columns_tell_of_each_sample_what_broke_it():
    model, x, y, _ = linear_task(classes=5)
    columns = attacked(model, x, y, 0.01).columns
    assert columns["id"] == names(60)
    assert columns["label"] == y.tolist()
    expected = {
        (False, False, False, False): "clean",
        (True, False, False, False): "fgsm",
        (True, True, False, False): "apgd_ce",
        (True, True, True, False): "apgd_t",
        (True, True, True, True): "",
    }
    attacks = ("clean", "fgsm", "apgd_ce", "apgd_t")
    passed = zip(*(columns[f"{name}_correct"] for name in attacks), strict=True)
    assert columns["broken_by"] == [expected[flags] for flags in passed]
    assert set(columns["broken_by"]) == set(expected.values())


@pytest.mark.parametrize("classes", [2, 4, 5, 10])
@pytest.mark.parametrize("eps", [0.005, 0.01])
def test_linear_classifiers_have_their_exact_robust_accuracy(classes, eps):
    model, x, y, robust = linear_task(classes, eps=eps)
    assert 0.2 < robust.float().mean() < 0.85
    found = attacked(model, x, y, eps)
    assert found.columns["robust_correct"] == robust.tolist()


@pytest.mark.parametrize("classes", [3, 4, 10])
def test_no_provably_robust_image_is_broken(classes):
    # Cross-entropy alone may miss the nearest class, but must not leave the ball to find one.
    model, x, y, robust = linear_task(classes, eps=0.005)
    after = torch.tensor(attacked(model, x, y, 0.005, steps=3, targets=0).columns["robust_correct"])
    assert after[robust].all()
    assert not after[~robust].all()


def test_outcomes_and_images_do_not_depend_on_the_size_of_batches():
    net, x, y = task(15)
    results = []
    for size in (64, 4, 1):
        seen = Seen()
        found = attacked(PerSample(net), x, y, batch_size=size, on_batch=seen)
        results.append((found, seen))
    first, images = results[0][0], results[0][1].images
    assert len(set(first.columns["broken_by"])) >= 3
    for found, seen in results[1:]:
        assert found == first
        assert seen.images.keys() == images.keys()
        assert all(torch.equal(seen.images[key], image) for key, image in images.items())


def test_outcomes_and_images_do_not_depend_on_order_or_company():
    net, x, y = task(15)
    whole, part = Seen(), Seen()
    columns = attacked(PerSample(net), x, y, on_batch=whole).columns
    chosen = [11, 3, 14, 7, 0, 9]
    ids = [names(15)[i] for i in chosen]
    found = attacked(PerSample(net), x[chosen], y[chosen], ids=ids, on_batch=part).columns
    assert found == {name: [values[i] for i in chosen] for name, values in columns.items()}
    assert part.images
    for (attempt, position), image in part.images.items():
        assert torch.equal(image, whole.images[attempt, chosen[position]])


def test_batches_change_no_outcome_of_a_usual_model_either():
    model, x, y, _ = linear_task(classes=5)
    found = attacked(model, x, y, 0.01)
    assert attacked(model, x, y, 0.01, batch_size=16) == found
    assert attacked(model, x, y, 0.01, batch_size=7) == found


def test_starts_depend_on_seed_dataset_sample_and_attempt_alone(monkeypatch):
    net, x, y = trained_net(), *pictures(4)

    def starts(**changed) -> torch.Tensor:
        given = []

        def record(model, x, y, draws, **effort):
            given.append(draws)
            return x

        monkeypatch.setattr(ensemble, "apgd_ce", record)
        attacked(net, x, y, targets=0, **{"apgd_ce_restarts": 2} | changed)
        return torch.stack(given)

    once = starts()
    assert once.shape == (2, *x.shape)
    assert once.flatten(2).unique(dim=1).shape[1] == 4
    assert 0 <= once.min() < 0.01 < 0.99 < once.max() < 1
    assert not (once[0] == once[1]).any()
    assert torch.equal(starts(), once)
    assert torch.equal(starts(ids=["s3", "s1", "s0", "s2"]), once[:, [3, 1, 0, 2]])
    for changed in ({"seed": 1}, {"dataset": "other"}, {"ids": list("abcd")}):
        assert not (starts(**changed) == once).any()


class Rescaled(nn.Module):
    """A net whose logits are rescaled on images with a white first pixel."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x) * torch.where(x[:, :1, 0, 0] == 1, self.scale, 1.0)


def flat(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> int:
    """How many images have no gradient."""
    return int((cross_entropy_gradient(model, x, y).flatten(1) == 0).all(1).sum())


def partly_white(n: int, white: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = pictures(n)
    x[:, 0, 0, 0] = 0.5
    x[:white, 0, 0, 0] = 1
    return x, y


@pytest.mark.parametrize("size", [64, 3, 1])
@pytest.mark.parametrize(("sharp", "noted"), [(1, ()), (2, (SATURATION.format("10%"),))])
def test_the_saturation_note_counts_images_whatever_the_batches(sharp, noted, size):
    (x, y), model = partly_white(20, sharp), Rescaled(trained_net(), 1e4)
    assert flat(model, x, y) == sharp
    found = attacked(model, x, y, 1e-3, steps=1, targets=4, batch_size=size)
    assert found.notes == noted


def test_images_that_are_wrong_when_clean_do_not_count_as_saturated():
    x, y = partly_white(20, 5)
    constant = Rescaled(trained_net(), 0)  # predicts class 0, without a gradient
    assert flat(constant, x, y) == 5
    found = attacked(constant, x, y, 1e-3, steps=1, targets=4)
    assert found.columns["broken_by"][:5] == ["", "clean", "clean", "clean", "clean"]
    assert found.notes == (SATURATION.format("6%"),)


def test_huge_logits_are_noted_and_still_broken_by_the_scale_free_loss():
    net, x, y = task(40)
    plain = attacked(net, x, y, targets=4)
    assert plain.notes == ()
    assert 10 < sum(plain.columns["robust_correct"]) < 30
    for scale in (10.0, 100.0, 1e4):
        net.scale = scale
        found = attacked(net, x, y, targets=4)
        counts = [sum(run.columns["robust_correct"]) for run in (plain, found)]
        assert abs(counts[0] - counts[1]) <= 1
    assert found.columns["apgd_ce_correct"] == found.columns["clean_correct"]
    assert found.notes == (SATURATION.format("100%"),)
