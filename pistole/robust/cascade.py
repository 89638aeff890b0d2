"""Attacks in turn: each sees the images that all before it left standing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pistole.errors import UserError
from pistole.robust.checks import (
    check_adversarial,
    check_deterministic,
    checked_logits,
    looks_like_logits,
)
from pistole.robust.found import Found
from pistole.robust.journal import Journal
from pistole.robust.modes import device_of
from pistole.robust.pgd import cross_entropy_gradient, fgsm
from pistole.seeds import generator

PROBED = 16  # images that are classified twice: randomness shows on any of them

Attempt = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
OnBatch = Callable[[str, Tensor, Tensor], None]


@dataclass(frozen=True)
class Cascade:
    """One evaluation: what is attacked and how its batches are made.

    Attributes:
        model: frozen, from images in [0, 1] to logits.
        images: fp32 pixels.
        labels: classes.
        ids: sample ids.
        seed: run seed.
        dataset: name that the starts are drawn under.
        batch_size: images per batch.
        journal: where outcomes are kept until the evaluation is over.
        on_batch: called after each attacked batch.
        found: gets what fooled the model.
    """

    model: nn.Module
    images: Tensor
    labels: Tensor
    ids: Sequence[str]
    seed: int
    dataset: str
    batch_size: int
    journal: Journal
    on_batch: OnBatch | None
    found: Found | None = None

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return device_of(self.model)

    def batches(self, chosen: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield positions, images and labels of the samples where ``chosen`` is true."""
        for part in self.parts(chosen):
            yield (part, *self.batch(part))

    def parts(self, chosen: Tensor) -> Iterator[Tensor]:
        """Yield the positions of the samples where ``chosen`` is true, batch by batch."""
        positions = chosen.nonzero()[:, 0]
        if len(positions):  # the split of nothing is one empty part
            yield from positions.split(self.batch_size)

    def batch(self, part: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and labels at some positions, on the model's device."""
        return (
            self.images[part.to(self.images.device)].to(self.device),
            self.labels[part.to(self.labels.device)].to(self.device),
        )

    def clean(self) -> tuple[Tensor, int]:
        """Return clean predictions, on the CPU, and the number of classes."""
        predictions, classes = [], 0
        for _, x, _ in self.batches(torch.ones(len(self.images), dtype=torch.bool)):
            logits = checked_logits(self.model, x)
            if not predictions:
                classes = logits.shape[1]
                check_deterministic(self.model, x[:PROBED])
                self._check_outputs(logits)
            predictions.append(logits.argmax(1).cpu())
        return torch.cat(predictions), classes

    def _check_outputs(self, logits: Tensor) -> None:
        if not looks_like_logits(logits):
            raise UserError("the model returns probabilities: give logits, softmax hides gradients")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= logits.shape[1]:
            raise UserError(
                f"labels span {low} to {high}: the model has classes 0 to {logits.shape[1] - 1}"
            )

    def one_step(self, alive: Tensor, eps: float, name: str) -> tuple[Tensor, int]:
        """Take the one step that the gradient at the clean image gives; it costs that gradient.

        Args:
            alive: samples to attack.
            eps: radius, pixel range.
            name: of the attempt.

        Returns:
            Which samples survive, and how many had no gradient at all: there the softmax
            saturates in fp32 and APGD-CE stands still.
        """
        after, flat = alive.clone(), 0
        for part, x, y in self.batches(alive):
            gradient = cross_entropy_gradient(self.model, x, y)
            # A count, because sums of fractions round differently with other batches.
            flat += int((gradient.flatten(1) == 0).all(1).sum())
            after[part] = self._survive(name, part, x, y, fgsm(x, gradient, eps), eps)
        return after, flat

    def after(self, alive: Tensor, attempts: Iterator[tuple[str, Attempt]], eps: float) -> Tensor:
        """Return which samples survive all attempts; each attempt sees the survivors so far."""
        alive = alive.clone()
        for name, attack in attempts:
            for part in self.parts(alive):
                alive[part] = self._after_one(name, attack, part, eps)
        return alive

    def _after_one(self, name: str, attack: Attempt, part: Tensor, eps: float) -> Tensor:
        known = self.journal.recall(eps, name, part)
        if known is None:
            x, y = self.batch(part)
            adversarial = attack(self.model, x, y, self.draws(name, part, x.shape[1:]))
            known = self._survive(name, part, x, y, adversarial, eps)
            kept = adversarial[~known] if self._finds(eps, known) else None
            self.journal.keep(eps, name, part, known, kept)
        elif self.found is not None and self._finds(eps, known):
            self.found.add(eps, part[~known], self.journal.images(eps, name, part))
        return known

    def _finds(self, eps: float, right: Tensor) -> bool:
        return self.found is not None and self.found.wants(eps) and not bool(right.all())

    def _survive(
        self, name: str, part: Tensor, x: Tensor, y: Tensor, adversarial: Tensor, eps: float
    ) -> Tensor:
        """What counts is the prediction on the checked image, not the attack's claim."""
        check_adversarial(x, adversarial, eps)
        right = torch.ones_like(y, dtype=torch.bool)  # as the clean images, which most still are
        moved = (adversarial != x).flatten(1).any(1)
        if moved.any():
            right[moved] = checked_logits(self.model, adversarial[moved]).argmax(1) == y[moved]
        right = right.cpu()
        if self.found is not None:
            self.found.add(eps, part[~right], adversarial[~right])
        if self.on_batch is not None:
            self.on_batch(name, part, adversarial)
        return right

    def draws(self, attempt: str, positions: Tensor, shape: torch.Size) -> Tensor:
        """U(0, 1) per sample, a function of the sample's id and the attempt alone."""
        parts = []
        for position in positions.tolist():
            name = (self.seed, "ensemble", self.dataset, self.ids[position], attempt)
            parts.append(torch.rand(shape, generator=generator(*name)))
        return torch.stack(parts)
