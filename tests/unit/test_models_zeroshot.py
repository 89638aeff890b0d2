import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pistole.errors import UserError
from pistole.models.zeroshot import (
    ZeroShotClassifier,
    functional_logits,
    load_parameters,
    parameters_of,
    text_features,
    with_head,
)

# torch's own forward mode compiles its decompositions with a deprecated call, at its first use.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")


def unit_rows(rows: int, columns: int, seed: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, columns, generator=source), dim=-1)


@pytest.fixture
def clf(tiny_clip):
    return ZeroShotClassifier(
        tiny_clip.visual, unit_rows(3, 16, 1), [0.4, 0.5, 0.6], [0.2, 0.3, 0.4], 16, 20.0
    )


@pytest.fixture
def images():
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def test_logits_are_scaled_cosines_of_normalised_images(clf, images, tiny_clip):
    normal = torch.empty_like(images)
    for channel, (mean, std) in enumerate(((0.4, 0.2), (0.5, 0.3), (0.6, 0.4))):
        normal[:, channel] = (images[:, channel] - mean) / std
    features = tiny_clip.encode_image(normal, normalize=True)
    expected = 20 * features @ clf.text_features.T
    torch.testing.assert_close(clf(images), expected)


def test_images_of_another_size_are_resized_bicubically_without_antialias(clf, images):
    small = images[..., :8, :8]
    large = torch.nn.functional.interpolate(
        small, size=(16, 16), mode="bicubic", align_corners=False, antialias=False
    )
    assert torch.equal(clf(small), clf(large))


def test_always_in_eval_mode(tiny_clip):
    visual = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Flatten()
    ).train()
    clf = ZeroShotClassifier(visual, unit_rows(2, 64, 0), [0.5] * 3, [0.5] * 3, 4, 1.0)
    before = {name: value.clone() for name, value in clf.state_dict().items()}
    clf.train()
    clf(torch.rand(2, 3, 4, 4))
    assert not any(module.training for module in clf.modules())
    assert all(torch.equal(value, before[name]) for name, value in clf.state_dict().items())
    assert set(parameters_of(clf)) == {"0.weight", "0.bias", "1.weight", "1.bias"}


def test_parameters_round_trip(clf, images):
    theta = parameters_of(clf)
    assert theta.keys() == dict(clf.visual.named_parameters()).keys()
    assert not any(value.requires_grad for value in theta.values())
    expected = clf(images)
    moved = {name: value + 0.1 for name, value in theta.items()}
    at_moved = functional_logits(clf, moved, images)
    assert not torch.allclose(at_moved, expected)
    torch.testing.assert_close(clf(images), expected)  # the call left the classifier alone
    load_parameters(clf, moved)
    torch.testing.assert_close(clf(images), at_moved)
    load_parameters(clf, theta)
    assert torch.equal(clf(images), expected)


def test_incomplete_or_strange_parameters_are_refused(clf, images):
    theta = parameters_of(clf)
    partial = {name: value for name, value in theta.items() if name != "proj"}
    for wrong in (partial, {**theta, "strange": theta["proj"]}):
        with pytest.raises(ValueError, match=r"proj|strange"):
            functional_logits(clf, wrong, images)
        with pytest.raises(ValueError, match=r"proj|strange"):
            load_parameters(clf, wrong)


def test_gradients_reach_parameters_and_images(clf, images):
    theta = {name: value.requires_grad_() for name, value in parameters_of(clf).items()}
    images.requires_grad_()
    loss = functional_logits(clf, theta, images).logsumexp(1).sum()
    gradients = torch.autograd.grad(loss, [images, *theta.values()])
    assert all(torch.isfinite(g).all() for g in gradients)
    assert sum(g.abs().sum() > 0 for g in gradients) >= len(gradients) - 1
    clf.visual.zero_grad()
    assert all(p.grad is None for p in clf.visual.parameters())


def loss_at(clf, images):
    def loss(theta):
        return -functional_logits(clf, theta, images).log_softmax(1)[:, 0].mean()

    return loss


def direction(theta):
    source = torch.Generator().manual_seed(5)
    return {name: torch.randn(value.shape, generator=source) for name, value in theta.items()}


def dot(a, b):
    return sum((a[name] * b[name]).sum() for name in a)


def test_three_ways_to_a_hessian_vector_product_agree(clf, images):
    theta, loss = parameters_of(clf), loss_at(clf, images)
    v = direction(theta)
    with sdpa_kernel(SDPBackend.MATH):
        _, forward_over_reverse = torch.func.jvp(torch.func.grad(loss), (theta,), (v,))
        leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
        gradient = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
        slope = dot(dict(zip(leaves, gradient, strict=True)), v)
        double_backward = torch.autograd.grad(slope, list(leaves.values()), allow_unused=True)
        step = 1e-3
        high = torch.func.grad(loss)({n: theta[n] + step * v[n] for n in theta})
        low = torch.func.grad(loss)({n: theta[n] - step * v[n] for n in theta})
    curvature = dot(forward_over_reverse, v)
    for name, product in zip(theta, double_backward, strict=True):
        other = torch.zeros_like(theta[name]) if product is None else product
        torch.testing.assert_close(forward_over_reverse[name], other, rtol=1e-3, atol=1e-4)
    difference = dot({n: (high[n] - low[n]) / (2 * step) for n in theta}, v)
    torch.testing.assert_close(curvature, difference, rtol=0.01, atol=0.0)


def test_forward_mode_works_without_gradients(clf, images):
    theta, loss = parameters_of(clf), loss_at(clf, images)
    v = direction(theta)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        _, slope = torch.func.jvp(loss, (theta,), (v,))
        slopes = torch.func.vmap(lambda s: torch.func.jvp(loss, (theta,), (s,))[1])(
            {name: torch.stack([value, 2 * value]) for name, value in v.items()}
        )
    assert torch.isfinite(slope)
    torch.testing.assert_close(slopes, torch.stack([slope, 2 * slope]), rtol=1e-4, atol=1e-4)
    assert torch.backends.mha.get_fastpath_enabled()


def test_with_head_shares_the_tower(clf, images):
    other = with_head(clf, unit_rows(5, 16, 9))
    assert other(images).shape == (2, 5)
    assert other.visual is clf.visual
    assert (other.logit_scale, other.image_size) == (clf.logit_scale, clf.image_size)
    assert torch.equal(other.mean, clf.mean)
    assert torch.equal(other.std, clf.std)
    assert clf(images).shape == (2, 3)


def test_text_features_average_unit_features_over_templates():
    table = {"a cat": [1.0, 0.0], "one cat": [0.0, 1.0], "a dog": [0.6, 0.8], "one dog": [0.6, 0.8]}
    features = text_features(
        lambda texts: torch.tensor([table[text] for text in texts]),
        ["cat", "dog"],
        ["a {c}", "one {c}"],
    )
    torch.testing.assert_close(features, torch.tensor([[0.5**0.5, 0.5**0.5], [0.6, 0.8]]))
    scaled = text_features(
        lambda texts: (
            torch.tensor([table[t] for t in texts]) * torch.tensor([[9.0], [1], [1], [1]])
        ),
        ["cat", "dog"],
        ["a {c}", "one {c}"],
    )
    torch.testing.assert_close(scaled, features)


@pytest.mark.parametrize(
    ("names", "templates", "match"),
    [(["a"], ["a photo"], "lacks"), ([], ["{c}"], "0 class names"), (["a"], [], "0 templates")],
)
def test_text_features_need_names_and_templates(names, templates, match):
    with pytest.raises(UserError, match=match):
        text_features(lambda texts: torch.ones(len(texts), 2), names, templates)
