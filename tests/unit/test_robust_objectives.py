"""Objectives: what loss and attack each one is, and what the released codes do instead."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from pistole.errors import UserError
from pistole.params.cross import OPTIONS
from pistole.robust.objectives import OBJECTIVES, Batch, objective_named
from pistole.robust.objectives.base import squared_distance
from pistole.robust.objectives.pmg import IMAGENET_MEAN, IMAGENET_STD, divergence
from pistole.robust.objectives.tga import attention_map
from pistole.robust.pgd import Budget, pgd
from tests.unit.zeroshot_models import CLASSES, moved, pictures, zero_shot

BUDGET = Budget(eps=0.07, alpha=0.03, steps=3, init="uniform_eps")
L2 = Budget(eps=0.07, alpha=0.03, steps=3, init="uniform_eps", loss="l2")


def batch(n: int = 12, whole: int | None = None) -> Batch:
    x, y = pictures(n)
    noise = 0.05 * (2 * torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) - 1)
    return Batch(x, y, noise, whole or n)


def both(**options):
    """A trained model and the original that it came from."""
    return moved(zero_shot(**options)), zero_shot(**options)


def probabilities(logits: Tensor) -> Tensor:
    return logits.double().softmax(1)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum(1)


def attacked(model, some: Batch) -> Tensor:
    return pgd(model, some.images, some.labels, BUDGET, noise=some.noise)


def test_erm_is_the_cross_entropy_of_clean_images_and_does_not_attack():
    model, some = zero_shot(), batch()
    some.labels[:3] = model(some.images[:3]).argmin(1)
    erm = objective_named("erm")
    images = erm.adversarial(model, None, some, BUDGET)
    assert images is some.images
    loss, found = erm.loss(model, None, some, images)
    assert torch.equal(loss, cross_entropy(model(some.images), some.labels))
    right = model(some.images).argmax(1) == some.labels
    assert found == {"accuracy": right.float().mean().item()}
    assert not right[:3].any()


def test_tecoa_is_the_cross_entropy_of_adversarial_images():
    model, some = moved(zero_shot()), batch(40)
    tecoa = objective_named("tecoa")
    images = tecoa.adversarial(model, None, some, BUDGET)
    assert torch.equal(images, attacked(model, some))
    loss, found = tecoa.loss(model, None, some, images)
    assert torch.equal(loss, cross_entropy(model(images), some.labels))
    assert loss > cross_entropy(model(some.images), some.labels) + 0.1
    assert found == {"accuracy": (model(images).argmax(1) == some.labels).float().mean().item()}


def test_fare_is_the_squared_distance_of_raw_embeddings_summed_over_dimensions():
    (model, original), some = both(), batch()
    fare = objective_named("fare")
    images = fare.adversarial(model, original, some, L2)
    loss, found = fare.loss(model, original, some, images)
    features, target = model.embed(images), original.embed(some.images)
    by_hand = sum(((a - b) ** 2).sum() for a, b in zip(features, target, strict=True)) / 12
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    unit = torch.nn.functional.normalize
    assert loss > 2 * squared_distance(unit(features, dim=1), unit(target, dim=1)).mean()
    assert 0 <= found["accuracy"] <= 1
    gradient = torch.autograd.grad(loss, model.visual.proj)[0]
    assert gradient.any()


def test_fare_attacks_its_own_distance_and_uses_no_label():
    (model, original), some = both(), batch()
    fare = objective_named("fare")
    images = fare.adversarial(model, original, some, L2)
    other = Batch(some.images, (some.labels + 1) % CLASSES, some.noise, some.whole)
    assert torch.equal(fare.adversarial(model, original, other, L2), images)
    assert (
        fare.loss(model, original, other, images)[0] == fare.loss(model, original, some, images)[0]
    )
    target = original.embed(some.images)
    far = squared_distance(model.embed(images), target)
    assert (far > squared_distance(model.embed(some.images), target)).all()
    # The cross-entropy's own attack moves the embedding less.
    assert far.mean() > squared_distance(model.embed(attacked(model, some)), target).mean()


def test_pmg_is_the_cross_entropy_and_two_divergences_averaged_over_the_batch():
    (model, original), some = both(), batch()
    pmg = objective_named("pmg", alpha=0.5, beta=3.0)
    images = pmg.adversarial(model, original, some, BUDGET)
    assert torch.equal(images, attacked(model, some))
    loss, found = pmg.loss(model, original, some, images)
    adversarial, clean = probabilities(model(images)), probabilities(model(some.images))
    frozen = probabilities(original(images))
    error = -adversarial[range(12), some.labels].log().mean()
    expected = error + 0.5 * kl(frozen, adversarial).mean() + 3 * kl(clean, adversarial).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found["cross_entropy"] == pytest.approx(error.item(), rel=1e-5)
    assert found["kl_frozen"] == pytest.approx(kl(frozen, adversarial).mean().item(), rel=1e-4)
    assert found["kl_clean"] == pytest.approx(kl(clean, adversarial).mean().item(), rel=1e-4)
    assert objective_named("pmg").alpha == objective_named("pmg").beta == 1


def test_pmg_differentiates_the_clean_prediction_unless_it_is_detached():
    (model, original), some = both(), batch()
    free, held = objective_named("pmg"), objective_named("pmg", detach_clean=True)
    images = free.adversarial(model, original, some, BUDGET)

    def gradient(objective) -> tuple[Tensor, Tensor]:
        loss, _ = objective.loss(model, original, some, images)
        return loss.detach(), torch.autograd.grad(loss, model.visual.proj)[0]

    (loss, through), (same, stopped) = gradient(free), gradient(held)
    assert loss == same
    logits, clean = model(images), model(some.images)
    rest = cross_entropy(logits, some.labels) + divergence(original(images), logits)
    by_hand = rest + divergence(clean.detach(), logits)
    expected = torch.autograd.grad(by_hand, model.visual.proj, retain_graph=True)[0]
    torch.testing.assert_close(stopped, expected)
    full = torch.autograd.grad(rest + divergence(clean, logits), model.visual.proj)[0]
    torch.testing.assert_close(through, full)
    assert (through - stopped).norm() > 0.01 * through.norm()


def test_pmg_official_sums_the_divergences_over_the_whole_batch():
    # Trap 1: reduction="sum", while the cross-entropy is a mean. A part of a step counts for the
    # whole, so that the parts' mean is the whole's loss.
    (model, original), some = both(), batch(12, whole=48)
    released, ours = objective_named("pmg", official=True), objective_named("pmg")
    images = attacked(model, some)
    _, found = released.loss(model, original, some, images)
    _, per_sample = ours.loss(model, original, some, images)
    for name in ("kl_frozen", "kl_clean"):
        assert found[name] == pytest.approx(48 * per_sample[name], rel=1e-5)
    assert found["cross_entropy"] == per_sample["cross_entropy"]


def test_pmg_official_lost_the_temperature():
    # Trap 2: logits are bare cosines, so that the cross-entropy is almost flat.
    model, some = moved(zero_shot(logit_scale=100.0)), batch()
    ours, released = objective_named("pmg"), objective_named("pmg", official=True)
    assert ours.prepare(model) is model
    seen = released.prepare(model)
    assert model(some.images).abs().max() > 20
    assert seen(some.images).abs().max() <= 1
    loss, _ = released.loss(seen, seen, some, some.images)
    assert loss.item() == pytest.approx(math.log(CLASSES), abs=1)
    wanted = {id(parameter) for parameter in model.visual.parameters()}
    assert {id(parameter) for parameter in seen.parameters()} == wanted  # it trains the same tower


def test_pmg_official_normalises_with_imagenets_statistics():
    # Trap 3: not CLIP's.
    model, some = zero_shot(), batch()
    seen = objective_named("pmg", official=True).prepare(model)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    normal = (some.images - mean[:, None, None]) / std[:, None, None]
    assert torch.equal(seen.embed(some.images), model.visual(normal))
    assert not torch.allclose(seen.embed(some.images), model.embed(some.images), atol=1e-3)


def test_attention_map_of_a_known_image():
    # Three patches along, against and across the text, and one at 60 degrees; any length.
    text = torch.tensor([[1.0, 0.0]])
    patches = torch.tensor([[2.0, 0.0], [-3.0, 0.0], [0.0, 5.0], [0.5, 0.75**0.5]])
    tokens = torch.cat([torch.tensor([[9.0, 9.0]]), patches])[None]
    grid = torch.tensor([[1.0, 0.0], [0.5, 0.75]])[None, None]
    wanted = interpolate(grid, (224, 224), mode="bilinear", align_corners=False)[0]
    found = attention_map(tokens, text)
    assert found.shape == (1, 224, 224)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)
    assert found[0, 0, 0] == pytest.approx(1, abs=1e-5)
    assert found[0, 0, -1] == found[0].min() == 0


def test_tga_official_normalises_over_the_tokens():
    # Trap: norm(dim=1) of [n, tokens, features], class token included.
    text = torch.tensor([[1.0, 0.0]])
    tokens = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    released = attention_map(tokens, text.expand(2, 2), official=True)
    by_hand = tokens / tokens.norm(dim=1, keepdim=True)
    similarity = by_hand[:, 1:, 0]
    low, high = similarity.amin(1, keepdim=True), similarity.amax(1, keepdim=True)
    grid = ((similarity - low) / (high - low)).reshape(2, 1, 2, 2)
    wanted = interpolate(grid, (224, 224), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(released, wanted)
    # Longer patches weigh more there; a cosine does not see their length.
    longer = tokens.clone()
    longer[:, 2] *= 3
    ours = attention_map(longer, text.expand(2, 2))
    torch.testing.assert_close(ours, attention_map(tokens, text.expand(2, 2)))
    changed = attention_map(longer, text.expand(2, 2), official=True)
    assert (changed - released).abs().max() > 0.1


def test_tga_official_divides_zero_by_zero_where_the_map_is_constant():
    tokens, text = torch.ones(1, 5, 3), torch.tensor([[1.0, 0.0, 0.0]])
    assert not attention_map(tokens, text).any()
    assert attention_map(tokens, text, official=True).isnan().all()


def test_tga_starts_where_its_clean_term_has_no_direction():
    # There the bare norm turns round-off into a gradient of full length; the guarded one does not.
    some, model = batch(), zero_shot()
    original = moved(zero_shot(), by=1e-7)

    def pull(official: bool) -> Tensor:
        options = {"alpha": 0.0, "beta": 1.0, "official": official}
        loss, found = objective_named("tga", **options).loss(model, original, some, some.images)
        assert found["attention_clean"] < 0.01
        loss = loss - cross_entropy(model(some.images), some.labels)
        return torch.autograd.grad(loss, model.visual.proj)[0].norm()

    assert pull(official=False) < 0.1 * pull(official=True)


@pytest.mark.parametrize("official", [False, True])
def test_tga_is_the_cross_entropy_and_two_distances_of_maps(official):
    (model, original), some = both(), batch()
    tga = objective_named("tga", alpha=0.3, beta=0.7, official=official)
    assert tga.prepare(model) is model
    images = tga.adversarial(model, original, some, BUDGET)
    assert torch.equal(images, attacked(model, some))
    loss, found = tga.loss(model, original, some, images)
    text = model.text_features[some.labels]

    def maps(classifier, pixels: Tensor) -> Tensor:
        return attention_map(classifier.tokens(pixels)[1], text, official=official).double()

    wanted = maps(original, some.images)
    adversarial = (maps(model, images) - wanted).square().sum((1, 2)).sqrt().mean()
    clean = (maps(model, some.images) - wanted).square().sum((1, 2)).sqrt().mean()
    guard = 1e-3 if official else 0.0101  # the norm without a direction at 0 is 0.01 short
    assert found["attention_adversarial"] == pytest.approx(adversarial.item(), rel=1e-5, abs=guard)
    assert found["attention_clean"] == pytest.approx(clean.item(), rel=1e-5, abs=guard)
    error = cross_entropy(model(images), some.labels)
    assert loss.item() == pytest.approx(
        (error + 0.3 * adversarial + 0.7 * clean).item(), abs=0.0101
    )
    assert torch.autograd.grad(loss, model.visual.conv1.weight)[0].any()
    assert (objective_named("tga").alpha, objective_named("tga").beta) == (0.08, 0.05)


def test_tga_refuses_a_tower_without_patch_tokens_before_it_attacks():
    from open_clip.modified_resnet import ModifiedResNet

    model = zero_shot()
    model.visual = ModifiedResNet([1, 1, 1, 1], 12, heads=8, image_size=32, width=16)
    model.image_size = 32
    with pytest.raises(UserError, match=r"a ModifiedResNet, which has no patch .* use tecoa, fare"):
        objective_named("tga").prepare(model)
    model = zero_shot(attentional_pool=True, attn_pooler_heads=2)
    with pytest.raises(UserError, match=r"attentional pooling .*not tga"):
        objective_named("tga").prepare(model)


@pytest.mark.parametrize("name", ["erm", "tecoa", "fare", "pmg", "tga"])
def test_parts_weighted_by_their_rows_make_the_whole(name):
    (model, original), some = both(), batch()
    objective = objective_named(name)
    budget = L2 if name == "fare" else BUDGET
    images = objective.adversarial(model, original, some, budget)
    whole, numbers = objective.loss(model, original, some, images)
    sums: dict[str, float] = {}
    total = 0.0
    for rows in (slice(0, 3), slice(3, 12)):
        part = Batch(some.images[rows], some.labels[rows], some.noise[rows], 12)
        again = objective.adversarial(model, original, part, budget)
        torch.testing.assert_close(again, images[rows], atol=1e-6, rtol=0)
        loss, found = objective.loss(model, original, part, images[rows])
        total += loss.item() * len(part.images) / 12
        for key, value in found.items():
            sums[key] = sums.get(key, 0) + value * len(part.images) / 12
    assert total == pytest.approx(whole.item(), rel=1e-5)
    assert sums == pytest.approx(numbers, rel=1e-4, abs=1e-6)


def test_an_unknown_name_or_hyper_parameter_is_refused():
    with pytest.raises(UserError, match="is 'trades': choose one of erm, tecoa, fare, pmg, tga"):
        objective_named("trades")
    with pytest.raises(UserError, match="beta is 2, but objective tecoa has none: leave it out"):
        objective_named("tecoa", beta=2)
    assert objective_named("tecoa", beta=None, official=False) == OBJECTIVES["tecoa"]()
    assert objective_named("pmg", alpha=0.0).alpha == 0


def test_params_know_which_objective_has_which_hyper_parameter():
    for option, owners in OPTIONS.items():
        have = [n for n, kind in OBJECTIVES.items() if option in kind.__dataclass_fields__]
        assert tuple(have) == owners
