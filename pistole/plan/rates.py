"""How fast a device is: a named rate, or one measured in a few seconds."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import cross_entropy, normalize

from pistole.errors import UserError
from pistole.models.towers import build_visual
from pistole.models.zeroshot import ZeroShotClassifier
from pistole.params import Params
from pistole.plan.tower import Tower
from pistole.plan.work import FORWARD, IMAGE, TEXT, WEIGHT, Work
from pistole.robust.pgd import Budget, pgd
from pistole.stages.runtime import device_of

# Peak TFLOP/s in fp32 without tensor cores, by the makers' data sheets: all arithmetic of the
# pipeline is fp32 without TF32.
CARDS = {
    "t4": 8.1,
    "v100": 15.7,
    "a100": 19.5,
    "l4": 30.3,
    "rtx3090": 35.6,
    "a6000": 38.7,
    "h100-pcie": 51.2,
    "h100": 66.9,
    "h200": 66.9,
    "rtx4090": 82.6,
    "l40s": 91.6,
}
REACHED = 0.6  # share of the peak that a transformer's passes are assumed to reach
LONGEST = 2.0  # seconds that one pass of the calibration may take
REPEATS = 5
CLASSES = 100
MEASURED = (FORWARD, IMAGE, WEIGHT)


class Rate(Protocol):
    """Turns passes into seconds."""

    @property
    def about(self) -> str:
        """Where the rate is from."""
        ...

    def seconds(self, works: Iterable[Work], tower: Tower) -> float:
        """Return how long passes take.

        Args:
            works: the passes.
            tower: what they go through.

        Returns:
            Seconds.
        """
        ...


@dataclass(frozen=True)
class Named:
    """A rate that was given.

    Attributes:
        tflops: achieved 10^12 operations per second.
        about: where it is from.
    """

    tflops: float
    about: str

    def seconds(self, works: Iterable[Work], tower: Tower) -> float:
        """Return operations over rate.

        Args:
            works: the passes.
            tower: gives the operations of one image.

        Returns:
            Seconds.
        """
        return sum(tower.flops[w.kind] * w.images for w in works) / (self.tflops * 1e12)


def named_rate(text: str) -> Named:
    """Read a rate from the command line.

    Args:
        text: achieved TFLOP/s, or the name of a card.

    Returns:
        The rate.

    Raises:
        UserError: neither.
    """
    if text.lower() in CARDS:
        peak = CARDS[text.lower()]
        share = f"{REACHED:.0%} of the fp32 peak of {text.lower()} ({peak:g}), assumed"
        return Named(REACHED * peak, f"{REACHED * peak:.1f} TFLOP/s: {share}")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(
            f"device rate is {text!r}: give TFLOP/s above 0, or a card: {', '.join(CARDS)}"
        )
    return Named(value, f"{value:g} TFLOP/s, as given")


@dataclass(frozen=True)
class Calibrated:
    """Rates that were measured on the present device.

    Attributes:
        per_image: kind and batch size -> seconds of one image.
        about: where it was measured.
    """

    per_image: Mapping[tuple[str, int], float]
    about: str

    def seconds(self, works: Iterable[Work], tower: Tower) -> float:
        """Return the time at the measured batch size that is nearest to each pass's.

        Second-order passes run at the operations per second of the gradient of the parameters,
        text at those of a forward pass.

        Args:
            works: the passes.
            tower: gives the operations of one image.

        Returns:
            Seconds.
        """
        return sum(w.images * self._one(w, tower) for w in works if w.images)

    def _one(self, work: Work, tower: Tower) -> float:
        like = work.kind if work.kind in MEASURED else FORWARD if work.kind == TEXT else WEIGHT
        sizes = [batch for kind, batch in self.per_image if kind == like]
        near = min(sizes, key=lambda size: abs(math.log(size / work.batch)))
        return self.per_image[like, near] * tower.flops[work.kind] / tower.flops[like]


def calibrate(
    params: Params,
    tower: Tower,
    batches: Iterable[int],
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Calibrated, list[str]]:
    """Time a few passes of the base's architecture, with arbitrary weights.

    Args:
        params: ``device`` and ``threads`` are read.
        tower: the architecture.
        batches: batch sizes of the stages; where a pass would take too long, a smaller one is
            timed.
        clock: tells seconds.

    Returns:
        The rates, and a note for each batch size that the device's memory does not hold.
    """
    device = device_of(params)
    model = _arbitrary_model(tower).to(device)
    found, notes = {}, []
    for kind in MEASURED:
        one = _seconds(model, kind, 1, clock)
        found[kind, 1] = one
        for batch in sorted(set(batches) - {1}):
            size = batch if one * batch <= LONGEST else max(1, int(LONGEST / one))
            try:
                found[kind, size] = _seconds(model, kind, size, clock) / size
            except torch.OutOfMemoryError:
                notes.append(f"{kind} of {size} images at once does not fit into {device}")
                break
    return Calibrated(found, f"measured on {_name(device)}"), notes


def _arbitrary_model(tower: Tower) -> ZeroShotClassifier:
    source = torch.Generator().manual_seed(0)
    features = normalize(torch.randn(CLASSES, tower.embedding, generator=source), dim=-1)
    visual = build_visual(tower.config, tower.image_size, tower.name)
    middle = (0.5, 0.5, 0.5)
    return ZeroShotClassifier(visual, features, middle, middle, tower.image_size, 100.0)


def _seconds(model: ZeroShotClassifier, kind: str, batch: int, clock: Callable[[], float]) -> float:
    """The shortest time of one pass, after one that warms up: other work only makes it longer."""
    run = _pass(model, kind, batch)
    device = model.mean.device
    times = []
    for _ in range(REPEATS + 1):
        start = clock()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - start)
        if len(times) > 1 and sum(times) > LONGEST:
            break
    return min(times[1:])


def _pass(model: ZeroShotClassifier, kind: str, batch: int) -> Callable[[], object]:
    device, source = model.mean.device, torch.Generator().manual_seed(batch)
    side = (model.image_size, model.image_size)
    x = torch.rand(batch, 3, *side, generator=source).to(device)
    y = torch.arange(batch, device=device) % CLASSES
    weights = list(model.visual.parameters())
    for weight in weights:
        weight.requires_grad_(kind == WEIGHT)
    if kind == IMAGE:
        step = Budget(eps=1 / 255, alpha=1 / 255, steps=1, init="zero")
        return lambda: pgd(model, x, y, step, generator=source)
    if kind == WEIGHT:
        return lambda: torch.autograd.grad(cross_entropy(model(x), y), weights)
    return torch.no_grad()(lambda: model(x))


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU with {torch.get_num_threads()} threads"
