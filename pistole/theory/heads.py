"""Attention heads as slices of a tower's tensors (docs/method.md E.6).

A head owns its rows of the packed query, key and value projection and its columns of the output
projection. The output bias belongs to no head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pistole.method.vectors import Params

POINTS = ("base", "merged")  # the models whose heads the conflict map measures
# (packed q, k, v weight and bias, output weight) of nn.MultiheadAttention and open_clip's own
# Attention, then of timm's.
LAYOUTS = (
    ("in_proj_weight", "in_proj_bias", "out_proj.weight"),
    ("qkv.weight", "qkv.bias", "proj.weight"),
)


@dataclass(frozen=True)
class Attention:
    """One attention layer.

    Attributes:
        layer: name of its module.
        heads: number of heads.
        packed: tensor of the q, k and v rows, one third each, heads in order.
        bias: its bias; None if there is none.
        out: output projection, whose columns are the heads in order.
    """

    layer: str
    heads: int
    packed: str
    bias: str | None
    out: str


def attentions(visual: nn.Module) -> list[Attention]:
    """Find the attention layers of a tower.

    Args:
        visual: any tower; layers that do not pack q, k and v are not found.

    Returns:
        In the order of the tower's modules; empty for a tower without attention heads.
    """
    shapes = {name: value.shape for name, value in visual.named_parameters()}
    found = []
    for layer, module in visual.named_modules():
        heads = getattr(module, "num_heads", None)
        for names in LAYOUTS:
            packed, bias, out = (f"{layer}.{name}" if layer else name for name in names)
            if heads is None or packed not in shapes or out not in shapes:
                continue
            width = shapes[out][1]
            if shapes[packed][0] == 3 * width and width % heads == 0:
                found.append(Attention(layer, heads, packed, bias if bias in shapes else None, out))
    return found


def _places(params: Params, attention: Attention, head: int) -> list[tuple[str, tuple]]:
    """Tensor and index of every slice of a head."""
    width = params[attention.out].shape[1]
    size = width // attention.heads
    columns = slice(head * size, (head + 1) * size)
    rows = [slice(i * width + columns.start, i * width + columns.stop) for i in range(3)]
    packed = [name for name in (attention.packed, attention.bias) if name is not None]
    return [*((name, (r,)) for name in packed for r in rows), (attention.out, (..., columns))]


def head_slice(params: Params, attention: Attention, head: int) -> Tensor:
    """Gather the parameters of one head (docs/method.md E.6).

    Args:
        params: a tower's tensors by name, or gradients, task vectors or masks of it.
        attention: the layer.
        head: number of the head in it.

    Returns:
        One flat tensor: q, k and v rows, their biases, output columns.
    """
    return torch.cat([params[n][at].flatten() for n, at in _places(params, attention, head)])


def with_head_of(params: Params, source: Params, attention: Attention, head: int) -> Params:
    """Take one head from another tower (docs/method.md E.6).

    Args:
        params: the tower.
        source: where the head comes from, same names and shapes.
        attention: the layer.
        head: number of the head in it.

    Returns:
        The tower with this head; only tensors that changed are copies.
    """
    changed = dict(params)
    for name, place in _places(params, attention, head):
        if changed[name] is params[name]:
            changed[name] = params[name].clone()
        changed[name][place] = source[name][place]
    return changed


def without_head(params: Params, attention: Attention, head: int) -> Params:
    """Zero what one head adds to the residual stream, by its columns of the output projection.

    Args:
        params: the tower.
        attention: the layer.
        head: number of the head in it.

    Returns:
        The tower; only the output projection is a copy.
    """
    name, place = _places(params, attention, head)[-1]
    changed = dict(params)
    changed[name] = params[name].clone()
    changed[name][place] = 0
    return changed
