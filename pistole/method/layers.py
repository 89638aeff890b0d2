"""What one "layer" is: the coordinates that are normalised together (docs/method.md A.2).

A layer is a list of parts of tensors; the layers of one granularity are disjoint and cover every
coordinate once.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from pistole.errors import require_choice
from pistole.method.vectors import Params

GRANULARITIES = ("tensor", "qkv", "block", "global")
PACKED = re.compile(r"in_proj_(weight|bias)$")  # q, k and v of nn.MultiheadAttention
NUMBERED = re.compile(r"^(.*?(?:^|\.)\d+(?:\.\d+)*)(?=\.|$)")


@dataclass(frozen=True)
class Part:
    """Consecutive rows of one tensor.

    Attributes:
        name: of the tensor.
        start: first row.
        stop: row after the last; None for a whole tensor of any shape.
    """

    name: str
    start: int = 0
    stop: int | None = None

    def of(self, params: Params) -> Tensor:
        """Return the rows, as a view.

        Args:
            params: name -> tensor.

        Returns:
            The tensor, or some of its rows.
        """
        value = params[self.name]
        return value if self.stop is None else value[self.start : self.stop]


def layers(params: Params, granularity: str) -> dict[str, list[Part]]:
    """Group coordinates into layers.

    Args:
        params: gives names and shapes.
        granularity: ``tensor``: one layer per tensor; ``qkv``: the same, with packed attention
            projections split into q, k and v, whose gradients have different scales; ``block``:
            all tensors of one numbered block together, other tensors by their first name;
            ``global``: everything.

    Returns:
        layer -> its parts, in sorted order.

    Raises:
        UserError: unknown granularity.
    """
    require_choice("granularity", granularity, GRANULARITIES)
    found: dict[str, list[Part]] = {}
    for name in sorted(params):
        if granularity == "qkv" and PACKED.search(name) and params[name].shape[0] % 3 == 0:
            size = params[name].shape[0] // 3
            for i, letter in enumerate("qkv"):
                found[f"{name}.{letter}"] = [Part(name, i * size, (i + 1) * size)]
        else:
            found.setdefault(_layer_of(name, granularity), []).append(Part(name))
    return found


def _layer_of(name: str, granularity: str) -> str:
    if granularity == "global":
        return "global"
    if granularity == "block":
        numbered = NUMBERED.match(name)
        return numbered[1] if numbered else name.partition(".")[0]
    return name


def gather(params: Params, parts: list[Part]) -> Tensor:
    """Lay the coordinates of a layer side by side.

    Args:
        params: name -> tensor.
        parts: of the layer.

    Returns:
        One flat tensor; a copy unless the layer is one tensor.
    """
    flat = [part.of(params).flatten() for part in parts]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


def scatter(flat: Tensor, parts: list[Part], into: Params) -> None:
    """Write the coordinates of a layer back to their places; the inverse of :func:`gather`.

    Args:
        flat: one value per coordinate of the layer.
        parts: of the layer.
        into: name -> tensor, changed in place.
    """
    start = 0
    for part in parts:
        place = part.of(into)
        place.copy_(flat[start : start + place.numel()].view_as(place))
        start += place.numel()
