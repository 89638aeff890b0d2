"""A tiny conv net with BatchNorm and dropout, easy pictures, and linear classifiers."""

import copy
import functools

import torch
from torch import Tensor, nn

SIDE, CLASSES = 6, 5


class TinyNet(nn.Module):
    """Two layers; ``scale`` multiplies the logits."""

    def __init__(self, classes: int = CLASSES, scale: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(6 * (SIDE // 2) ** 2, classes)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        features = torch.tanh(self.norm(self.conv(x - 0.5))).flatten(1)
        return self.scale * self.head(self.dropout(features))


class Linear(nn.Module):
    """z = W vec(x - 0.5)."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5).flatten(1) @ self.weight.T


def fresh_net(seed: int = 0, **options) -> TinyNet:
    """A net with weights from a seed, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TinyNet(**options).eval()


def pictures(n: int, seed: int = 0, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Class prototypes plus noise, in [0, 1], with labels."""
    prototypes = torch.rand(classes, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(99))
    y = torch.arange(n) % classes
    noise = torch.randn(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return (0.5 + 0.5 * (prototypes[y] - 0.5) + 0.15 * noise).clamp(0, 1), y


def names(n: int) -> list[str]:
    """Sample ids."""
    return [f"s{i}" for i in range(n)]


@functools.cache
def _trained(classes: int) -> TinyNet:
    net = fresh_net(classes=classes)
    x, y = pictures(200, seed=5, classes=classes)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimiser.step()
    optimiser.zero_grad()
    return net


def trained_net(classes: int = CLASSES) -> TinyNet:
    """A net that gets most of :func:`pictures` right; a copy of its own for each caller."""
    return copy.deepcopy(_trained(classes))


def linear_task(
    classes: int, n: int = 60, eps: float = 0.05
) -> tuple[Linear, Tensor, Tensor, Tensor]:
    """A linear classifier, images that no eps ball takes out of [0, 1], labels, robustness.

    A sample is robust if and only if for all k: (w_y - w_k).x - eps ||w_y - w_k||_1 > 0.
    """
    source = torch.Generator().manual_seed(classes)
    model = Linear(torch.randn(classes, 3 * SIDE * SIDE, generator=source))
    x = 0.5 + 0.3 * (2 * torch.rand(n, 3, SIDE, SIDE, generator=source) - 1)
    with torch.no_grad():
        y = model(x).argmax(1)
        y[::10] = (y[::10] + 1) % classes  # some are wrong when clean
        z, weight = model(x).double(), model.weight.double()
        distances = (weight[y][:, None] - weight[None]).abs().sum(2)
        margins = z.gather(1, y[:, None]) - z - eps * distances
        margins.scatter_(1, y[:, None], torch.inf)
    assert margins.min(1).values.abs().min() > 1e-3, "a margin too close to call in fp32"
    return model, x, y, margins.min(1).values > 0
