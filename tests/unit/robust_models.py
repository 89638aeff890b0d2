"""A tiny conv net with BatchNorm and dropout, easy pictures, linear classifiers, evaluations."""

import copy
import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pistole.robust.cascade import OnBatch
from pistole.robust.ensemble import EnsembleSpec, Outcomes, evaluate
from pistole.robust.found import Found
from pistole.robust.journal import Journal

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


class PerSample(nn.Module):
    """Another model, one image at a time: its logits cannot depend on the batch, not in a bit."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.model(image[None]) for image in x])


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
    classes: int, n: int = 60, eps: float = 0.01
) -> tuple[Linear, Tensor, Tensor, Tensor]:
    """A linear classifier, images that no eps ball takes out of [0, 1], labels, robustness.

    A sample is robust if and only if for all k: (w_y - w_k).x - eps ||w_y - w_k||_1 > 0.
    """
    source = torch.Generator().manual_seed(classes)
    # Rows of different lengths, so that the nearest class is not always the second by logit.
    lengths = torch.linspace(0.4, 1.6, classes)[:, None]
    model = Linear(lengths * torch.randn(classes, 3 * SIDE * SIDE, generator=source))
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


class Seen:
    """An ``on_batch`` that keeps every adversarial image, by attempt and position."""

    def __init__(self) -> None:
        self.images: dict[tuple[str, int], Tensor] = {}
        self.sizes: list[int] = []

    def __call__(self, attempt: str, positions: Tensor, adversarial: Tensor) -> None:
        self.sizes.append(len(positions))
        for position, image in zip(positions.tolist(), adversarial, strict=True):
            self.images[attempt, position] = image.clone()

    def attempts(self) -> list[str]:
        """Names in the order in which they ran, after the one step that all begin with."""
        return [name for name in dict.fromkeys(name for name, _ in self.images) if name != "fgsm"]

    def positions(self, attempt: str) -> set[int]:
        """Samples that an attempt attacked."""
        return {position for name, position in self.images if name == attempt}


def attacked(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float = 0.06,
    *,
    ids: Sequence[str] | None = None,
    seed: int = 0,
    dataset: str = "toy",
    on_batch: OnBatch | None = None,
    journal: Journal | None = None,
    found: Found | None = None,
    steps: int = 15,
    **spec,
) -> Outcomes:
    """Evaluate with few steps; 0.06 is where about half of ``pictures`` break."""
    spec = {"apgd_ce_steps": steps, "apgd_t_steps": steps, "batch_size": 64} | spec
    return evaluate(
        model,
        x,
        y,
        ids or names(len(x)),
        EnsembleSpec(eps, **spec),
        seed=seed,
        dataset=dataset,
        on_batch=on_batch,
        journal=journal,
        found=found,
    )
