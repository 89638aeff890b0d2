"""The inputs of a model's linear layers, and their Gram matrices (docs/method.md C.3).

Modules do not tell them all: ``nn.MultiheadAttention`` calls the functional form with its
projections' weights, so that hooks on ``out_proj`` never fire, and a tower's last projection is a
bare parameter. What every layer does call is a function of torch with the weight among its
arguments; that is where the inputs are seen.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pistole.method.vectors import Params

ATTENTION = inspect.signature(functional.multi_head_attention_forward)
PRODUCTS = (torch.matmul, Tensor.matmul, Tensor.__matmul__)
CONVOLUTIONS = (functional.conv2d, torch.conv2d)
COLUMNS, ROWS, NONE = 1, 0, -1
Visit = Callable[[str, Tensor, int], None]


class LinearInputs(TorchFunctionMode):
    """Show the inputs of every linear layer that runs inside the block.

    The layers are ``linear`` (x W^T), the projections of attention, a product x W with a matrix,
    and convolutions whose patches do not overlap, such as a ViT's first layer: with each patch as
    a row they are x W^T with the weight as matrix [out, in].
    """

    def __init__(self, theta: Params, visit: Visit) -> None:
        """Hold what to look for.

        Args:
            theta: the very tensors that the model computes with, by name.
            visit: is told the name, the inputs as rows [m, in], and the axis of the weight (as
                matrix) that they run along.
        """
        super().__init__()
        self._visit = visit
        self._theta = theta  # alive, so that an id stays its tensor's
        self._names = {id(value): name for name, value in theta.items()}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Look at the arguments of one function of torch, and call it.

        Args:
            func: the function.
            types: not used.
            args: its arguments.
            kwargs: its named arguments.

        Returns:
            What it returns.
        """
        named = kwargs or {}
        if func is functional.multi_head_attention_forward:
            return self._attend(*args, **named)
        if func is functional.linear:
            self._see(*_pair(args, named), COLUMNS)
        elif func in PRODUCTS and len(args) == 2:
            self._see(args[0], args[1], ROWS)
        elif func in CONVOLUTIONS:
            self._see_patches(*args, **named)
        return func(*args, **named)

    def _see(self, x: Tensor, weight: Any, axis: int) -> None:
        name = self._names.get(id(weight))
        if name is not None:
            self._visit(name, x.detach().flatten(0, -2) if x.dim() > 1 else x.detach()[None], axis)

    def _see_patches(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> None:
        kernel, plain = tuple(weight.shape[2:]), (padding in (0, (0, 0), "valid") and groups == 1)
        if not plain or _two(stride) != kernel or _two(dilation) != (1, 1):
            return
        patches = functional.unfold(input, kernel, stride=kernel)  # [n, in, patches]
        self._see(patches.transpose(1, 2), weight, COLUMNS)

    def _attend(self, *args: Any, **named: Any) -> tuple[Tensor, Tensor | None]:
        bound = ATTENTION.bind(*args, **named)
        bound.apply_defaults()
        given = bound.arguments
        query, key, value = (given[name] for name in ("query", "key", "value"))
        if given["use_separate_proj_weight"]:
            for name, x in (("q", query), ("k", key), ("v", value)):
                self._see(x, given[f"{name}_proj_weight"], COLUMNS)
        elif query is key and key is value:
            self._see(query, given["in_proj_weight"], COLUMNS)
        weight, bias = given["out_proj_weight"], given["out_proj_bias"]
        # With the identity for its last projection, attention returns that projection's input.
        given["out_proj_weight"] = torch.eye(weight.shape[1]).to(weight)
        given["out_proj_bias"] = None
        mixed, maps = functional.multi_head_attention_forward(*bound.args, **bound.kwargs)
        self._see(mixed, weight, COLUMNS)
        return functional.linear(mixed, weight, bias), maps


def _pair(args: tuple, named: dict) -> tuple[Tensor, Tensor]:
    x = args[0] if args else named["input"]
    return x, args[1] if len(args) > 1 else named["weight"]


def _two(value: Any) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)


class Grams:
    """Gram matrices of the layers' inputs: the mean of x x^T over rows, in fp64.

    Attributes:
        axes: layer -> axis of its weight (as matrix) that inputs run along.
    """

    def __init__(self) -> None:
        """Start with no layer."""
        self.axes: dict[str, int] = {}
        self._sums: Params = {}
        self._rows: dict[str, int] = {}

    def visit(self, name: str, rows: Tensor, axis: int) -> None:
        """Add inputs, as :class:`LinearInputs` shows them.

        Args:
            name: of the layer's weight.
            rows: its inputs [m, in].
            axis: of the weight that they run along.
        """
        rows = rows.double()
        product = rows.T @ rows
        self.axes[name] = axis
        self._sums[name] = product if name not in self._sums else self._sums[name] + product
        self._rows[name] = self._rows.get(name, 0) + len(rows)

    def mean(self, name: str) -> Tensor:
        """Return a layer's Gram matrix.

        Args:
            name: of its weight.

        Returns:
            [in, in] in fp64.
        """
        return self._sums[name] / self._rows[name]
