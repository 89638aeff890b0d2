"""A three-layer classifier of named tensors, and random parameters, for tests of the method."""

from collections.abc import Callable

import torch
from torch import Tensor

Params = dict[str, Tensor]
SIZES = (5, 6, 6, 4)  # input, hidden, hidden, classes


def random_params(seed: int, dtype: torch.dtype = torch.float32, **shapes: tuple) -> Params:
    """Normal tensors of the given shapes; by default a matrix, a bias and a stack of matrices."""
    source = torch.Generator().manual_seed(seed)
    shapes = shapes or {"weight": (6, 5), "bias": (6,), "conv": (3, 2, 2)}
    return {k: torch.randn(s, generator=source, dtype=dtype) for k, s in shapes.items()}


def mlp(seed: int = 0, dtype: torch.dtype = torch.float64) -> Params:
    """Parameters of the classifier."""
    shapes = {}
    for i in range(3):
        shapes |= {f"{i}.weight": (SIZES[i + 1], SIZES[i]), f"{i}.bias": (SIZES[i + 1],)}
    return random_params(seed, dtype, **shapes)


def log_softmax(theta: Params, x: Tensor) -> Tensor:
    """Log probabilities [n, 4] of inputs [n, 5]."""
    for i in range(3):
        x = x @ theta[f"{i}.weight"].T + theta[f"{i}.bias"]
        x = torch.tanh(x) if i < 2 else x
    return x.log_softmax(-1)


def samples(n: int = 7, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Inputs and labels."""
    source = torch.Generator().manual_seed(1)
    x = torch.randn(n, SIZES[0], generator=source, dtype=dtype)
    return x, torch.arange(n) % SIZES[-1]


def log_prob(x: Tensor, y: Tensor) -> Callable[[Params], Tensor]:
    """From parameters to the log probability of every sample's label."""
    return lambda theta: log_softmax(theta, x).gather(1, y[:, None])[:, 0]


def exact_weighted_traces(
    function: Callable[[Params], Tensor], theta: Params, variances: dict[str, float]
) -> Tensor:
    """sum_l sigma_l^2 Tr(H_ll) of every component, from the whole Hessian."""
    hessian = torch.func.hessian(function)(theta)
    return sum(
        variances[name] * hessian[name][name].flatten(1).unflatten(1, (value.numel(), -1))
        .diagonal(dim1=1, dim2=2).sum(1)
        for name, value in theta.items()
    )  # fmt: skip
