"""What is normalised together (docs/method.md A.2)."""

import pytest
import torch

from pistole.errors import UserError
from pistole.method.layers import GRANULARITIES, gather, layers, scatter
from pistole.method.masks import MaskSettings, masks_from_scores, stability_mask
from tests.unit.method_models import random_params

SHAPES = {
    "conv1.weight": (2, 3, 2, 2),
    "ln_post.weight": (4,),
    "transformer.resblocks.0.attn.in_proj_weight": (12, 4),
    "transformer.resblocks.0.attn.in_proj_bias": (12,),
    "transformer.resblocks.0.mlp.0.weight": (3, 4),
    "transformer.resblocks.10.attn.in_proj_weight": (12, 4),
    "transformer.resblocks.11.attn.in_proj_weight": (6, 2),
    "trunk.blocks.0.1.conv.weight": (2, 2),
    "trunk.blocks.0.2.conv.weight": (2, 2),
    "0.weight": (2, 2),
    "head.proj.weight": (2, 3),
}


def params(seed: int = 0) -> dict[str, torch.Tensor]:
    return {k: v.abs() for k, v in random_params(seed, **SHAPES).items()}


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_every_coordinate_is_in_one_layer_and_comes_back(granularity):
    values = params()
    counted = {name: torch.zeros_like(value) for name, value in values.items()}
    copied = {name: torch.zeros_like(value) for name, value in values.items()}
    for parts in layers(values, granularity).values():
        for part in parts:
            part.of(counted).add_(1)
        scatter(gather(values, parts), parts, copied)
    for name in values:
        assert (counted[name] == 1).all()
        assert torch.equal(copied[name], values[name])


def test_names_of_the_layers():
    assert sorted(layers(params(), "tensor")) == sorted(SHAPES)
    assert list(layers(params(), "global")) == ["global"]
    assert sorted(layers(params(), "block")) == [
        "0",
        "conv1",
        "head",
        "ln_post",
        "transformer.resblocks.0",
        "transformer.resblocks.10",
        "transformer.resblocks.11",
        "trunk.blocks.0.1",
        "trunk.blocks.0.2",
    ]
    split = layers(params(), "qkv")
    packed = "transformer.resblocks.0.attn.in_proj_weight"
    values = params()
    for i, letter in enumerate("qkv"):
        found = gather(values, split[f"{packed}.{letter}"])
        assert torch.equal(found, values[packed][4 * i : 4 * i + 4].flatten())
    assert "transformer.resblocks.11.attn.in_proj_weight.v" in split
    assert "conv1.weight" in split
    assert packed not in split


def test_an_unknown_granularity_is_refused():
    for refused in (
        lambda: layers(params(), "head"),
        lambda: MaskSettings(gamma=1, kappa=1, q=1, cap_mode="none", granularity="head"),
    ):
        with pytest.raises(UserError, match="granularity is 'head': choose one of tensor, qkv"):
            refused()


def test_masks_are_normalised_over_the_layer():
    scores = params()
    how = {"gamma": 0.5, "kappa": 2, "q": 0.9, "cap_mode": "renorm"}
    everything = masks_from_scores(scores, MaskSettings(**how, granularity="global"))
    flat = torch.cat([scores[name].flatten() for name in sorted(scores)])
    expected = stability_mask(flat, MaskSettings(**how))
    assert torch.equal(torch.cat([everything[n].flatten() for n in sorted(scores)]), expected)
    # A unit of one third of a packed tensor leaves qkv masks alone, and moves tensor masks.
    packed = "transformer.resblocks.0.attn.in_proj_weight"
    scaled = scores | {packed: scores[packed].clone()}
    scaled[packed][4:8] *= 2**10
    for granularity, same in (("qkv", True), ("tensor", False)):
        settings = MaskSettings(**how, granularity=granularity)
        before, after = (masks_from_scores(s, settings)[packed][:4] for s in (scores, scaled))
        assert torch.allclose(before, after) == same
