"""The transfer pool takes right answers away, never gives one, and names who did it."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from pistole.errors import UserError
from pistole.robust.found import Found
from pistole.robust.transfer import Pooled, try_pool
from tests.unit.robust_models import (
    Linear,
    attacked,
    fresh_net,
    pictures,
    trained_net,
)

EPS, COUNT = 0.09, 24


def pooled(name: str, images: dict[int, Tensor]) -> Pooled:
    """What was found for a model, in memory."""
    positions = torch.tensor(sorted(images), dtype=torch.int64)
    stacked = torch.stack([images[i] for i in positions.tolist()]) if images else torch.empty(0)
    return Pooled(name, positions, stacked.__getitem__)


def other_net(seed: int) -> nn.Module:
    """Another net that is right on most pictures, but not on those that the first one is."""
    net, noise = trained_net(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.3 * weight.std(correction=0) * torch.randn(weight.shape, generator=noise)
    return net


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    return {"a": trained_net(), **{name: other_net(ord(name)) for name in "bc"}}


@pytest.fixture(scope="module")
def evaluated(models) -> dict[str, tuple[Tensor, Found]]:
    """Which pictures every model gets right when clean, and what fooled it."""
    x, y = pictures(COUNT)
    results = {}
    for name, model in models.items():
        found = Found(EPS)
        columns = attacked(model, x, y, EPS, steps=2, targets=0, found=found).columns
        results[name] = torch.tensor(columns["clean_correct"]), found
    return results


def tried(models, evaluated, name: str, order: str, batch_size: int = 16):
    """Try one model, as if it had not been attacked, on the images of others in this order."""
    x, y = pictures(COUNT)
    pool = [pooled(other, evaluated[other][1].images) for other in order]
    return try_pool(
        models[name], x, y, evaluated[name][0], pool, eps=EPS, batch_size=batch_size
    ).fooled_by


def test_a_hand_made_case():
    """Two classes along one axis: the sign of the first pixel decides."""
    model = Linear(torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]))
    x = torch.tensor([0.52, 0.52, 0.7, 0.52]).reshape(4, 1, 1, 1).repeat(1, 3, 1, 1)
    y, alive = torch.zeros(4, dtype=torch.int64), torch.tensor([True, True, True, False])
    shift = torch.tensor([-0.05, 0.0, 0.0]).reshape(3, 1, 1)
    first = pooled("first", {1: x[1], 2: x[2] + shift, 3: x[3] + shift})
    second = pooled("second", {0: x[0] + shift, 1: x[1] + shift})
    found = try_pool(model, x, y, alive, [first, second], eps=0.05, batch_size=1)
    assert found.fooled_by == ("second", "second", "", "")
    # Of the first model samples 1 and 2 (3 was no longer right), of the second one 0 and 1.
    assert found.forwards == 4
    both = try_pool(model, x, y, alive, [second, second], eps=0.05, batch_size=4)
    assert both.fooled_by == found.fooled_by
    assert both.forwards == 2  # a fooled sample leaves


def test_the_pool_takes_right_answers_away_and_gives_none(models, evaluated):
    fell = 0
    for name in models:
        alive = evaluated[name][0]
        fooled = torch.tensor([bool(by) for by in tried(models, evaluated, name, "abc")])
        assert not (fooled & ~alive).any()
        fell += int(fooled.sum())
    assert fell > 0


def test_who_falls_is_wrong_on_the_named_image(models, evaluated):
    _, y = pictures(COUNT)
    for name, order in (("a", "bc"), ("b", "ca"), ("c", "ab")):
        alive, x = evaluated[name][0], pictures(COUNT)[0]
        for i, by in enumerate(tried(models, evaluated, name, order)):
            wrong = [
                other
                for other in order
                if (image := evaluated[other][1].images.get(i)) is not None
                and models[name](image[None]).argmax() != y[i]
            ]
            assert by == (wrong[0] if wrong and alive[i] else "")
            if by:
                assert (evaluated[by][1].images[i] - x[i]).abs().max() <= EPS + 1e-6


def test_the_order_changes_who_is_named_and_not_who_falls(models, evaluated):
    results = [tried(models, evaluated, "a", "".join(o)) for o in itertools.permutations("bc")]
    fell = [[bool(by) for by in found] for found in results]
    assert fell[0] == fell[1]
    assert any(fell[0])
    assert results[0] != results[1]


def test_no_pool_and_its_own_images_change_nothing(models, evaluated):
    for name in models:
        assert not any(tried(models, evaluated, name, ""))
        alive = evaluated[name][0].clone()
        alive[list(evaluated[name][1].images)] = False  # what its own evaluation says
        own = [pooled(name, evaluated[name][1].images)]
        x, y = pictures(COUNT)
        found = try_pool(models[name], x, y, alive, own, eps=EPS, batch_size=16)
        assert not any(found.fooled_by)
        assert found.forwards == 0
        assert any(tried(models, evaluated, name, name))


@pytest.mark.parametrize("size", [1, 7])
def test_the_batch_size_changes_nothing(models, evaluated, size):
    for name in models:
        expected = tried(models, evaluated, name, "abc")
        assert tried(models, evaluated, name, "abc", size) == expected


def test_a_model_without_right_answers_reads_no_image(models):
    x, y = pictures(4)

    def read(rows: Tensor) -> Tensor:
        raise AssertionError(rows)

    pool = [Pooled("other", torch.arange(4), read)]
    nobody = torch.zeros(4, dtype=torch.bool)
    found = try_pool(models["a"], x, y, nobody, pool, eps=EPS, batch_size=2)
    assert found.forwards == 0
    assert found.fooled_by == ("",) * 4


def test_the_model_is_left_as_it_was():
    x, y = pictures(4)
    net = fresh_net().train()
    pool = [pooled("other", dict(enumerate(x)))]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    try_pool(net, x, y, torch.ones(4, dtype=torch.bool), pool, eps=EPS, batch_size=2)
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda image: image + 0.1, "more than eps"),
        (lambda image: 0 * image - 0.01, "more than eps|outside"),
        (lambda image: image.double(), "float64"),
        (lambda image: image[:, :3], "not torch.float32"),
        (lambda image: image * float("nan"), "NaN"),
    ],
)
def test_an_image_outside_the_threat_model_is_refused(change, problem):
    x, y = pictures(4)
    bad = pooled("other", {2: change(x[2])})
    alive = torch.ones(4, dtype=torch.bool)
    with pytest.raises(UserError, match=rf"found for other .*({problem}).*: evaluate other again"):
        try_pool(trained_net(), x, y, alive, [bad], eps=EPS, batch_size=2)


def test_a_pixel_outside_the_unit_interval_is_refused():
    x = torch.full((1, 3, 6, 6), 0.99)
    bad = pooled("other", {0: x[0] + 0.03})
    with pytest.raises(UserError, match=r"outside \[0, 1\]"):
        try_pool(
            trained_net(),
            *(x, torch.tensor([0]), torch.tensor([True]), [bad]),
            eps=EPS,
            batch_size=1,
        )


@pytest.mark.parametrize("positions", [[0, 4], [-1], [1, 1]])
def test_images_of_no_sample_or_twice_of_one_are_refused(positions):
    x, y = pictures(4)
    bad = Pooled("other", torch.tensor(positions), lambda rows: x[rows])
    alive = torch.ones(4, dtype=torch.bool)
    with pytest.raises(UserError, match="not each of another of the 4 samples"):
        try_pool(trained_net(), x, y, alive, [bad], eps=EPS, batch_size=2)


def test_half_precision_is_refused():
    x, y = pictures(2)
    net = trained_net().half()
    with pytest.raises(UserError, match="attacks run in fp32"):
        try_pool(net, x, y, torch.ones(2, dtype=torch.bool), [], eps=EPS, batch_size=2)


def test_found_keeps_the_first_image_in_the_ball_of_every_fooled_sample():
    x, y = pictures(COUNT)
    found, plain = Found(EPS), Found(EPS)
    effort = {"steps": 2, "targets": 2}
    columns = attacked(trained_net(), x, y, EPS, radii=(0.03, 0.2), found=found, **effort).columns
    attacked(trained_net(), x, y, EPS, found=plain, **effort)
    fooled = [
        i
        for i, (clean, robust) in enumerate(
            zip(columns["clean_correct"], columns["robust_correct"], strict=True)
        )
        if clean and not robust
    ]
    assert sorted(found.images) == fooled
    assert 0 < len(fooled) < COUNT
    for i, image in found.images.items():
        assert image.dtype == torch.float32
        assert (image - x[i]).abs().max() <= EPS + 1e-6
        assert trained_net()(image[None]).argmax() != y[i]
    # The attack at eps comes first and is the same without further radii.
    assert all(torch.equal(found.images[i], image) for i, image in plain.images.items())
