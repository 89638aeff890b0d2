"""The model as an attack sees it: a fooled image leaves, and the caller's draws are the noise.

Both work from outside, so that the attack's own code stays unchanged. Whatever is said here of an
image holds for it alone: the path of no other image in the batch changes, but for the rounding
of kernels that sum in another order in a smaller batch.
"""

import contextlib
from collections.abc import Callable, Generator
from types import ModuleType

import torch
from torch import Tensor, nn

from pistole.errors import UserError

FIRM = 1e-5  # of the largest logit: a lead that no other batch's rounding takes back


class Finished(Exception):  # noqa: N818
    """Every image is fooled, or every iterate was seen: the rest of the attack changes nothing."""


class Victim(nn.Module):
    """The model behind a name and an anchor of our own.

    torchattacks normalises inputs of a class named ``RobModel`` and prints if it finds no
    parameter to read the device from.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        """Hold the model.

        Args:
            model: from images to logits.
            device: of the images.
        """
        super().__init__()
        self.anchor = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Classify."""
        if x.requires_grad:
            x.register_hook(require_finite)
        return self.model(x)


class EarlyExit(Victim):
    """A victim of an attack that asks for the gradient at every iterate.

    An image that an iterate fools is not computed again: the attack gets a right answer with a
    zero gradient for it, which lets it stand still. The last iterate needs no gradient.

    Attributes:
        found: the latest iterate that fooled the model, else the clean image.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, iterates: int) -> None:
        """Start with all images in.

        Args:
            model: from images to logits.
            x: clean images.
            y: their labels.
            iterates: how many iterates the attack evaluates, its start included.
        """
        super().__init__(model, x.device)
        self.found, self.labels = x.clone(), y
        self._inside = torch.ones_like(y, dtype=torch.bool)
        self._left = iterates

    def forward(self, x: Tensor) -> Tensor:
        """Classify the images that are still in.

        Args:
            x: iterates; without a gradient, something else the attack wants to know.

        Returns:
            Logits.

        Raises:
            Finished: no answer can change ``found`` any more.
        """
        if not x.requires_grad:
            return self.model(x)
        self._left -= 1
        rows = self._inside.nonzero()[:, 0]
        with torch.set_grad_enabled(self._left > 0):
            logits = super().forward(x[rows]) if self._left else self.model(x[rows])
        self._record(x.detach(), rows, logits.detach())
        if not self._left or not self._inside.any():
            raise Finished
        right = nn.functional.one_hot(self.labels, logits.shape[1]).to(logits)
        return right.index_copy(0, rows, logits)

    def _record(self, x: Tensor, rows: Tensor, logits: Tensor) -> None:
        labels = self.labels[rows, None]
        fooled = rows[logits.argmax(1) != labels[:, 0]]
        self.found[fooled] = x[fooled]
        lead = logits.scatter(1, labels, -torch.inf).amax(1) - logits.gather(1, labels)[:, 0]
        self._inside[rows[lead > FIRM * logits.abs().amax(1)]] = False


def require_finite(gradient: Tensor) -> None:
    """Stop at a NaN, whose sign is 0: the attack would stand still and the image seem robust.

    Args:
        gradient: of a loss on images.

    Raises:
        UserError: it is not finite.
    """
    if not gradient.isfinite().all():
        raise UserError("the model has a NaN or infinite gradient: an attack finds no direction")


class _OwnRand:
    """``torch``, except for ``rand``."""

    def __init__(self, rand: Callable[[torch.Size], Tensor]) -> None:
        self.rand = rand

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


@contextlib.contextmanager
def drawing(module: ModuleType, rand: Callable[[torch.Size], Tensor]) -> Generator[None]:
    """Let one module's ``torch.rand`` be something else inside the block.

    Args:
        module: of an attack; all other code sees the real torch.
        rand: from a shape to draws of U(0, 1).

    Yields:
        Nothing.
    """
    genuine = module.torch
    module.torch = _OwnRand(rand)
    try:
        yield
    finally:
        module.torch = genuine


def given(draws: Tensor) -> Callable[[torch.Size], Tensor]:
    """Make a ``rand`` that returns given draws.

    Args:
        draws: what it returns.

    Returns:
        A function that stops the run if it is asked for another shape.
    """

    def rand(shape: torch.Size) -> Tensor:
        if shape != draws.shape:
            raise RuntimeError(f"the attack drew {tuple(shape)}, not {tuple(draws.shape)}")
        return draws

    return rand
