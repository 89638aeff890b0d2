"""What a plan knows of a tower: on the meta device, without weights."""

import math

import pytest
import torch
from params_text import TEXT
from ruamel.yaml import YAML
from torch import nn

from pistole.errors import UserError
from pistole.method import masks, vectors
from pistole.models.towers import build_visual
from pistole.params import Params
from pistole.plan.tower import count, count_flops, read_tower
from pistole.plan.work import EFFORT, FORWARD, GRAPH, IMAGE, PRODUCT, SECOND, WEIGHT
from pistole.theory.curvature import (
    hessian_operator,
    second_directional_derivative,
    twice_differentiable_attention,
)
from pistole.theory.depth import blocks_by_depth
from pistole.theory.heads import attentions, head_slice

SIDE, PATCH, WIDTH, LAYERS, OUT = 16, 8, 16, 2, 16  # of conftest's tiny_config


def params_of(model: str | None, **base: object) -> Params:
    raw = YAML(typ="safe", pure=True).load(TEXT)
    raw["base"] |= {"kind": "open_clip", "model": model, "pretrained": "none"} | base
    return Params.model_validate(raw)


@pytest.fixture
def tiny(tiny_config: dict) -> tuple[nn.Module, torch.Tensor]:
    with torch.device("meta"):
        return build_visual(tiny_config, SIDE, "tiny"), torch.empty(1, 3, SIDE, SIDE)


TOKENS = (SIDE // PATCH) ** 2 + 1
PATCHES = 2 * (TOKENS - 1) * 3 * PATCH**2 * WIDTH
ATTENTION = LAYERS * 2 * 2 * TOKENS**2 * WIDTH  # queries with keys, weights with values
# q, k, v and the output projection, and the two layers of the MLP.
LINEAR = LAYERS * 2 * TOKENS * (4 + 8) * WIDTH**2 + 2 * WIDTH * OUT


def test_a_forward_pass_has_the_operations_of_a_transformer(tiny):
    assert count_flops(*tiny)[FORWARD] == PATCHES + LINEAR + ATTENTION


def test_a_backward_pass_has_one_product_per_factor_that_has_a_gradient(tiny):
    flops = count_flops(*tiny)
    # To the pixels: one more of each product with a weight, two of those of two activations.
    assert flops[IMAGE] == 2 * (PATCHES + LINEAR) + 3 * ATTENTION
    # To the weights: two more of each, but the pixels have no gradient.
    assert flops[WEIGHT] == 3 * (LINEAR + ATTENTION) + 2 * PATCHES
    assert flops[GRAPH] == flops[WEIGHT]


def test_the_ratios_of_second_derivatives_are_those_of_a_vit():
    import open_clip

    config = open_clip.get_model_config("ViT-B-32-quickgelu")
    with torch.device("meta"):
        visual, x = build_visual(config, 224, "b32"), torch.empty(1, 3, 224, 224)
    theta = {name: value.detach() for name, value in visual.named_parameters()}

    def features(at: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(visual, at, (x,)).square().sum(1)

    with twice_differentiable_attention():
        forward = count(lambda: features(theta))
        operator = hessian_operator(lambda at: features(at).sum(), theta)
        product = count(lambda: operator(theta))
        second = count(lambda: second_directional_derivative(features, theta, theta))
    assert product / forward == pytest.approx(EFFORT[PRODUCT], rel=0.05)
    assert second / forward == pytest.approx(EFFORT[SECOND], rel=0.05)


def test_the_gradient_of_a_grouped_convolution_costs_as_much_as_its_forward_pass():
    layer = nn.Conv2d(8, 8, 3, padding=1, groups=8, device="meta")
    x = torch.empty(1, 8, 5, 5, device="meta", requires_grad=True)
    forward = count(lambda: layer(x * 1))
    assert forward == 2 * 8 * 9 * 25
    both = count(lambda: layer(x * 1).sum().backward())
    assert both == 3 * forward


def test_vit_l14_has_the_papers_shapes(monkeypatch: pytest.MonkeyPatch):
    tower = read_tower(params_of("ViT-L-14-quickgelu"))
    assert tower.activation == "QuickGELU"
    assert tower.parameters == 303_966_208
    assert (tower.heads, tower.depth, tower.image_size, tower.embedding) == (384, 24, 224, 768)
    assert tower.flops[FORWARD] == pytest.approx(162e9, rel=0.01)
    with torch.device("meta"):
        visual = build_visual(tower.config, 224, tower.name)
    theta = dict(visual.named_parameters())
    shapes = {name: tuple(value.shape) for name, value in theta.items()}
    # On the meta device there are no values, so what looks at values is left out.
    monkeypatch.setattr(vectors, "require_finite", lambda params, what: None)
    monkeypatch.setattr(masks, "stability_mask", lambda scores, settings: torch.empty_like(scores))
    tau = vectors.task_vector(theta, theta)
    assert {name: tuple(value.shape) for name, value in tau.items()} == shapes
    assert {value.dtype for value in tau.values()} == {torch.float32}
    for granularity in ("tensor", "qkv", "block", "global"):
        settings = masks.MaskSettings(
            gamma=0.5, kappa=2, q=0.999, cap_mode="renorm", granularity=granularity
        )
        made = masks.masks_from_scores(tau, settings)
        assert {name: tuple(value.shape) for name, value in made.items()} == shapes
    sizes = {head_slice(tau, a, k).numel() for a in attentions(visual) for k in (0, a.heads - 1)}
    assert sizes == {64 * (4 * 1024 + 3)}  # rows of q, k, v with biases, columns of the output
    assert sum(map(len, blocks_by_depth(shapes).values())) == len(shapes)
    assert sum(math.prod(shape) for shape in shapes.values()) == tower.parameters


def test_another_input_size_costs_other_passes():
    small = read_tower(params_of("ViT-B-32-quickgelu", image_size=64))
    large = read_tower(params_of("ViT-B-32-quickgelu"))
    assert small.image_size == 64
    assert small.flops[FORWARD] < large.flops[FORWARD] / 5
    assert small.flops["text"] == large.flops["text"] > 0


def test_an_unknown_model_is_a_user_error():
    with pytest.raises(UserError, match="did you mean"):
        read_tower(params_of("ViT-L-41-quickgelu"))


def test_a_hub_name_that_was_never_fetched_is_a_user_error():
    with pytest.raises(UserError, match="not in the Hugging Face cache"):
        read_tower(params_of("hf-hub:nobody/never-fetched"))
