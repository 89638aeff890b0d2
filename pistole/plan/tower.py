"""What a plan needs to know of a base model, found out without its weights."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pistole.baselines.activations import LinearInputs
from pistole.models.sources import find_config
from pistole.models.towers import Config, activations, build_clip, build_visual
from pistole.params import Params
from pistole.plan.sizes import Sizes
from pistole.plan.work import EFFORT, FORWARD, GRAPH, IMAGE, PRODUCT, SECOND, TEXT, WEIGHT
from pistole.theory.curvature import twice_differentiable_attention
from pistole.theory.depth import blocks_by_depth
from pistole.theory.heads import attentions


@dataclass(frozen=True)
class Tower(Sizes):
    """A visual tower, by its architecture alone: its sizes, and what passes through it cost.

    Attributes:
        name: of the architecture.
        config: open_clip's model config.
        activation: activation functions.
        heads: attention heads of all layers.
        depth: numbered blocks.
        flops: kind of pass -> floating-point operations of one image, or of one prompt for
            ``text``; 0 for a text tower that open_clip cannot build without a network.
    """

    name: str
    config: Config
    activation: str
    heads: int
    depth: int
    flops: dict[str, float]


def read_tower(params: Params) -> Tower:
    """Build the base model's towers on the meta device and count.

    Args:
        params: ``base`` is read; its weights need not exist.

    Returns:
        The visual tower.
    """
    name, config = find_config(params.base.kind, params.base.model)
    side = params.base.image_size or _own_size(config)
    if params.base.image_size:
        config = {**config, "vision_cfg": {**config["vision_cfg"], "image_size": side}}
    with torch.device("meta"):
        visual = build_visual(config, side, name)
    images = torch.empty(1, 3, side, side, device="meta")
    return Tower(
        name=name,
        config=config,
        image_size=side,
        parameters=sum(p.numel() for p in visual.parameters()),
        buffers=sum(b.numel() for b in visual.buffers()),
        embedding=visual(images).shape[1],
        grams=_gram_values(visual, images),
        activation="+".join(activations(visual)),
        heads=sum(layer.heads for layer in attentions(visual)),
        depth=len(blocks_by_depth(n for n, _ in visual.named_parameters())),
        flops=count_flops(visual, images) | {TEXT: _text_flops(config, name)},
    )


def _gram_values(visual: nn.Module, images: Tensor) -> int:
    inputs: dict[str, int] = {}
    with LinearInputs(
        dict(visual.named_parameters()), lambda name, x, axis: inputs.update({name: x.shape[1]})
    ):
        visual(images)
    return sum(size**2 for size in inputs.values())


def _own_size(config: Config) -> int:
    own = config["vision_cfg"].get("image_size", 224)
    return own if isinstance(own, int) else own[0]


def count_flops(visual: nn.Module, images: Tensor) -> dict[str, float]:
    """Count the floating-point operations of every kind of pass.

    Matrix products, convolutions and attention are counted (torch.utils.flop_counter), a
    multiplication and an addition as two; activations and normalisations are not. The second-order
    passes, which take long to count, have their fixed ratios to a forward pass.

    Args:
        visual: a visual tower, best on the meta device, where nothing is computed.
        images: normalised images [n, 3, s, s] on its device.

    Returns:
        kind -> operations of all these images.
    """
    theta = {name: value.detach() for name, value in visual.named_parameters()}

    def features(at: dict[str, Tensor], x: Tensor = images) -> Tensor:
        return torch.func.functional_call(visual, at, (x,)).sum()

    def to_pixels() -> None:
        x = images.detach().requires_grad_()
        torch.autograd.grad(features(theta, x * 1), x)  # the counter wants no leaf as input

    def to_weights() -> None:
        leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
        torch.autograd.grad(features(leaves), list(leaves.values()))

    with twice_differentiable_attention():  # matrix products: what fused kernels do, is not seen
        forward, image, weight = map(count, (lambda: features(theta), to_pixels, to_weights))
    return {
        FORWARD: forward,
        IMAGE: image,
        WEIGHT: weight,
        GRAPH: weight,
        PRODUCT: EFFORT[PRODUCT] * forward,
        SECOND: EFFORT[SECOND] * forward,
    }


def count(run: Callable[[], object]) -> float:
    """Count the floating-point operations of a call.

    Args:
        run: the call.

    Returns:
        Their number.
    """
    formulas = {torch.ops.aten.convolution_backward: _convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        run()
    return float(counter.get_total_flops())


def _convolution_backward(
    grad_out: torch.Size, x: torch.Size, weight: torch.Size, *rest: Any, out_shape: Any
) -> int:
    """As much as the forward pass for each gradient: torch's own formula forgets the groups."""
    mask = rest[-1]
    return 2 * math.prod(weight[1:]) * math.prod(grad_out) * (mask[0] + mask[1])


def _text_flops(config: Config, name: str) -> float:
    text = config["text_cfg"]
    if "hf_model_name" in text:
        return 0.0
    with torch.device("meta"):
        clip = build_clip(config, name)
        tokens = torch.zeros(1, text.get("context_length", 77), dtype=torch.long)
        with twice_differentiable_attention(), torch.no_grad():
            return count(lambda: clip.encode_text(tokens))  # type: ignore[operator]
