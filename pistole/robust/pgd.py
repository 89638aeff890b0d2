"""Projected gradient descent in the l-infinity ball (docs/method.md B.2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from pistole.errors import UserError, require_choice
from pistole.seeds import generator as seeded

INITS = ("gaussian_0.001", "uniform_eps", "zero")
LOSSES = ("ce", "l2")
GAUSSIAN_SCALE = 0.001  # pixel range


@dataclass(frozen=True)
class Budget:
    """The threat model and the effort of one PGD attack.

    Attributes:
        eps: radius of the l-infinity ball, pixel range.
        alpha: size of a step, pixel range.
        steps: gradient steps.
        init: start: ``gaussian_0.001`` (PISTOLE), ``uniform_eps`` (RobustVLM) or ``zero``.
        loss: what is maximised: ``ce``, or inside training ``l2``, the squared distance of the
            embedding from the frozen base's of the clean image (FARE).
    """

    eps: float
    alpha: float
    steps: int
    init: str
    loss: str = "ce"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: a value is out of its range.
        """
        for name in ("eps", "alpha"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"{name} is {getattr(self, name)}: give pixel units in [0, 1], such as 2/255"
                )
        if self.steps < 1:
            raise UserError(f"attack steps is {self.steps}: give at least 1")
        require_choice("attack init", self.init, INITS)
        require_choice("attack loss", self.loss, LOSSES)
        if self.loss == "l2" and self.init == "zero":
            raise UserError(
                "attack init is 'zero' with loss 'l2', which has no gradient at the clean image: "
                "use uniform_eps"
            )


def draw_noise(
    shape: Sequence[int], budget: Budget, generator: torch.Generator
) -> Float[Tensor, "..."]:
    """Draw the displacement that an attack starts from.

    Args:
        shape: of the images.
        budget: gives the law.
        generator: where randomness comes from; its device is the result's.

    Returns:
        N(0, 0.001^2), U(-eps, eps) or zeros, not yet projected to the ball.
    """
    options = {"generator": generator, "device": generator.device}
    if budget.init == "gaussian_0.001":
        return GAUSSIAN_SCALE * torch.randn(tuple(shape), **options)
    if budget.init == "uniform_eps":
        return budget.eps * (2 * torch.rand(tuple(shape), **options) - 1)
    return torch.zeros(tuple(shape), device=generator.device)


def start_noise(
    ids: Sequence[str], seed: int, shape: Sequence[int], budget: Budget
) -> Float[Tensor, "n ..."]:
    """Draw each sample's start from its own id, so that it is the same in every batch.

    Args:
        ids: sample ids.
        seed: what the draw belongs to.
        shape: of one image.
        budget: gives the law.

    Returns:
        The displacements, on the CPU.
    """
    return torch.stack([draw_noise(shape, budget, seeded(seed, "start", name)) for name in ids])


def maximise(
    loss: Callable[[Float[Tensor, "n c h w"]], Float[Tensor, ""]],
    x: Float[Tensor, "n c h w"],
    budget: Budget,
    *,
    noise: Float[Tensor, "n c h w"],
) -> Float[Tensor, "n c h w"]:
    """Projected sign ascent on a loss of images; the last iterate, one start, fp32 throughout.

    Gradients are taken of the images only: no parameter's ``grad`` is touched.

    Args:
        loss: a sum over the images, not a mean, so that a sample's path does not depend on the
            size of its batch.
        x: clean images.
        budget: ball and steps.
        noise: the start's displacement, from :func:`start_noise` or :func:`draw_noise`.

    Returns:
        Images inside the ball and [0, 1]; a copy of ``x`` if eps is 0.

    Raises:
        UserError: ``x`` is not fp32, or a gradient is not finite.
    """
    if x.dtype != torch.float32:
        raise UserError(f"images are {x.dtype}: PGD runs in fp32, give float32 pixels in [0, 1]")
    clean = x.detach()
    if budget.eps == 0:
        return clean.clone()
    lowest, highest = (clean - budget.eps).clamp(min=0), (clean + budget.eps).clamp(max=1)
    attacked = (clean + noise).clamp(lowest, highest)
    with torch.autocast(x.device.type, enabled=False), torch.enable_grad():
        for _ in range(budget.steps):
            attacked.requires_grad_()
            (gradient,) = torch.autograd.grad(loss(attacked), attacked)
            if not torch.isfinite(gradient).all():  # its sign is 0, and the image would look robust
                raise UserError(
                    "the gradient of the loss on the images is not finite: the model has diverged, "
                    "or its logits overflow; check its weights and logit_scale"
                )
            step = budget.alpha * gradient.sign()
            attacked = (attacked.detach() + step).clamp(lowest, highest)
    return attacked


def pgd(
    logits: Callable[[Tensor], Tensor],
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, " n"],
    budget: Budget,
    *,
    noise: Float[Tensor, "n c h w"] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n c h w"]:
    """Maximise the cross-entropy as :func:`maximise` does.

    Args:
        logits: from images in [0, 1] to logits [n, C].
        x: clean images.
        y: labels.
        budget: ball, steps and start; its loss is not used.
        noise: the start's displacement, from :func:`start_noise`; or give a generator.
        generator: draws one displacement for the whole batch.

    Returns:
        Images inside the ball and [0, 1]; a copy of ``x`` if eps is 0.

    Raises:
        ValueError: both or neither of ``noise`` and ``generator`` are given.
    """
    if generator is not None and noise is None:
        noise = draw_noise(x.shape, budget, generator).to(x.device)
    elif noise is None or generator is not None:
        raise ValueError("give either noise or a generator")

    def loss(images: Tensor) -> Tensor:
        return cross_entropy(logits(images), y, reduction="sum")

    return maximise(loss, x, budget, noise=noise)


def cross_entropy_gradient(
    logits: Callable[[Tensor], Tensor], x: Float[Tensor, "n c h w"], y: Int[Tensor, " n"]
) -> Float[Tensor, "n c h w"]:
    """Differentiate each image's cross-entropy by its own pixels.

    Args:
        logits: from images in [0, 1] to logits [n, C].
        x: images.
        y: labels.

    Returns:
        The gradient of the summed loss.
    """
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        loss = cross_entropy(logits(x), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
    return gradient


def fgsm(
    x: Float[Tensor, "n c h w"], gradient: Float[Tensor, "n c h w"], eps: float
) -> Float[Tensor, "n c h w"]:
    """Take one step of size eps along the gradient's sign (docs/method.md D.2).

    Args:
        x: clean images.
        gradient: of the loss there.
        eps: radius of the l-infinity ball, pixel range.

    Returns:
        Images inside the ball and [0, 1].
    """
    return (x + eps * gradient.sign()).clamp(0, 1)


def pgd_by_id(
    logits: Callable[[Tensor], Tensor],
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, " n"],
    ids: Sequence[str],
    budget: Budget,
    seed: int,
) -> Float[Tensor, "n c h w"]:
    """Run :func:`pgd` from starts that the samples' ids decide, so that batches do not matter.

    Args:
        logits: from images in [0, 1] to logits [n, C].
        x: clean images.
        y: labels.
        ids: sample ids.
        budget: ball, steps and start.
        seed: what the draw belongs to.

    Returns:
        Images inside the ball and [0, 1].
    """
    return pgd(logits, x, y, budget, noise=start_noise(ids, seed, x.shape[1:], budget).to(x.device))
