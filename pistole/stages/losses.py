"""A source's own loss at any point of parameter space: its inputs, probabilities and gradients.

The loss is the cross-entropy of the zero-shot head for every source, on clean images (natural) or
on adversarial ones (robust), so that scores do not change meaning with the way a source was trained
(docs/method.md 0).
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pistole.method.vectors import zeros_like
from pistole.models.zeroshot import ZeroShotClassifier, functional_logits
from pistole.robust.pgd import Budget, pgd_by_id
from pistole.stages.slices import Slice

Tensors = dict[str, Tensor]
FORWARD_AND_BACKWARD = 3  # a backward pass costs about two forward passes


class Objective:
    """The cross-entropy of some labelled images as a function of the visual parameters.

    Attributes:
        spent: forward-equivalents so far: images times 1 for a forward pass, times 3 for a pass
            with its gradient (docs/method.md A.9).
    """

    def __init__(self, model: ZeroShotClassifier, images: Slice, batch_size: int) -> None:
        """Hold what the loss is taken of.

        Args:
            model: classifier with the head of the images' dataset.
            images: labelled images.
            batch_size: images per pass, for memory only.
        """
        self.model, self.images, self.batch_size = model, images, batch_size
        self.device = next(model.parameters()).device
        self.labels = images.labels.to(self.device)
        self.clean = images.pixels()
        self.spent = 0

    def batches(self, chosen: Tensor | None = None) -> Iterator[Tensor]:
        """Yield positions.

        Args:
            chosen: which images; None means all.

        Yields:
            At most ``batch_size`` positions.
        """
        yield from (torch.arange(len(self.images)) if chosen is None else chosen).split(
            self.batch_size
        )

    def attacked(self, theta: Tensors, budget: Budget, seed: int) -> Tensor:
        """Return all images, attacked at a point.

        Args:
            theta: the point.
            budget: the attack.
            seed: of the starts.

        Returns:
            Adversarial pixels on the CPU.
        """
        out = torch.empty_like(self.clean)
        for batch in self.batches():
            x = self.clean[batch].to(self.device)
            attacked = pgd_by_id(
                lambda z: functional_logits(self.model, theta, z),
                x,
                self.labels[batch],
                [self.images.ids[i] for i in batch],
                budget,
                seed,
            )
            out[batch] = attacked.cpu()
            self.spent += FORWARD_AND_BACKWARD * budget.steps * len(batch)
        return out

    def log_prob(self, theta: Tensors, pixels: Tensor, batch: Tensor) -> Tensor:
        """Return log p_y of a batch.

        Args:
            theta: the point.
            pixels: of all images.
            batch: positions.

        Returns:
            One value per position.
        """
        logits = functional_logits(self.model, theta, pixels[batch].to(self.device))
        return -cross_entropy(logits, self.labels[batch], reduction="none")

    @torch.no_grad()
    def log_probs(self, theta: Tensors, pixels: Tensor) -> Tensor:
        """Return log p_y of all images, without a graph.

        Args:
            theta: the point.
            pixels: of all images.

        Returns:
            One value per image.
        """
        self.spent += len(self.images)
        return torch.cat([self.log_prob(theta, pixels, batch) for batch in self.batches()])

    def mean_gradient(
        self,
        theta: Tensors,
        pixels: Tensor,
        weights: Tensor | None = None,
        chosen: Tensor | None = None,
    ) -> Tensors:
        """Return the gradient of the mean (weighted) cross-entropy.

        Args:
            theta: the point.
            pixels: of all images.
            weights: of all images; None means 1.
            chosen: which images the mean is over; None means all.

        Returns:
            Gradients by name.
        """
        count = len(self.images) if chosen is None else len(chosen)
        total = zeros_like(theta)
        for size, part in self.micro_gradients(theta, pixels, weights, chosen):
            for name, value in part.items():
                total[name].add_(value, alpha=size / count)
        return total

    def micro_gradients(
        self,
        theta: Tensors,
        pixels: Tensor,
        weights: Tensor | None = None,
        chosen: Tensor | None = None,
        size: int | None = None,
    ) -> Iterator[tuple[int, Tensors]]:
        """Yield the gradients of the mean (weighted) cross-entropy of micro-batches.

        Args:
            theta: the point.
            pixels: of all images.
            weights: of all images; None means 1.
            chosen: which images; None means all.
            size: images per micro-batch; None means as many as fit a pass.

        Yields:
            Number of images, and the gradients of their mean loss by name.
        """
        leaves = {name: value.detach().requires_grad_() for name, value in theta.items()}
        everything = torch.arange(len(self.images)) if chosen is None else chosen
        for batch in everything.split(size or self.batch_size):
            # No name here holds a gradient while the next one is made.
            yield len(batch), self._gradient(leaves, pixels, weights, batch)

    def _gradient(
        self, leaves: Tensors, pixels: Tensor, weights: Tensor | None, batch: Tensor
    ) -> Tensors:
        losses = -self.log_prob(leaves, pixels, batch)
        loss = (losses if weights is None else weights[batch] * losses).mean()
        self.spent += FORWARD_AND_BACKWARD * len(batch)
        parts = torch.autograd.grad(loss, list(leaves.values()))
        return dict(zip(leaves, parts, strict=True))
