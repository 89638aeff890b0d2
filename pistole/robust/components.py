"""torchattacks' APGD and APGD-T, one run each, from a start that the caller draws.

torchattacks draws the start with ``torch.rand(x.shape)`` after seeding the global RNG, so a
sample's noise depends on its place in the batch. Here the component's own module sees a ``torch``
whose ``rand`` returns the caller's draws, for the length of one call; the model under attack and
all other code see the real one. Nothing else of the component is changed. Restarts, targets and
the choice of survivors belong to :mod:`pistole.robust.ensemble`. Not safe in several threads.
"""

import contextlib
from collections.abc import Generator
from types import ModuleType

import torch
import torchattacks.attacks.apgd
import torchattacks.attacks.apgdt
from jaxtyping import Float, Int
from torch import Tensor, nn

from pistole.errors import UserError


class _Victim(nn.Module):
    """The model behind a name and an anchor of our own.

    torchattacks normalises inputs of a class named ``RobModel`` and prints if it finds no
    parameter to read the device from.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(_require_finite)
        return self.model(x)


def _require_finite(gradient: Tensor) -> None:
    """Stop at a NaN, whose sign is 0: the attack would stand still and the image seem robust."""
    if not gradient.isfinite().all():
        raise UserError("the model has a NaN or infinite gradient: an attack finds no direction")


class _GivenDraws:
    """``torch``, except that ``rand`` returns given draws."""

    def __init__(self, draws: Tensor) -> None:
        self._draws = draws

    def rand(self, shape: torch.Size) -> Tensor:
        if shape != self._draws.shape:
            raise RuntimeError(f"the attack drew {tuple(shape)}, not {tuple(self._draws.shape)}")
        return self._draws

    def __getattr__(self, name: str) -> object:
        return getattr(torch, name)


@contextlib.contextmanager
def _drawing(module: ModuleType, draws: Tensor) -> Generator[None]:
    genuine = module.torch
    module.torch = _GivenDraws(draws)
    try:
        yield
    finally:
        module.torch = genuine


def apgd_ce(
    model: nn.Module,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, " n"],
    draws: Float[Tensor, "n c h w"],
    *,
    eps: float,
    steps: int,
) -> Float[Tensor, "n c h w"]:
    """Run APGD on the cross-entropy once (Croce & Hein 2020, alg. 1; docs/method.md D.2).

    Args:
        model: in eval mode, from images in [0, 1] to logits [n, C].
        x: images that the model gets right.
        y: their labels.
        draws: of U(0, 1); they decide the start.
        eps: radius of the l-infinity ball, pixel range.
        steps: iterations.

    Returns:
        An adversarial image where the attack found one, else the clean image.

    Raises:
        UserError: the model's gradient is not finite.
    """
    attack = torchattacks.attacks.apgd.APGD(
        _Victim(model, x.device), norm="Linf", eps=eps, steps=steps, n_restarts=1, seed=0, loss="ce"
    )
    return _found(attack, torchattacks.attacks.apgd, x, y, draws)


def apgd_t(
    model: nn.Module,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, " n"],
    draws: Float[Tensor, "n c h w"],
    *,
    eps: float,
    steps: int,
    target: int,
    targets: int,
) -> Float[Tensor, "n c h w"]:
    """Run APGD on the targeted DLR loss once, against one target (docs/method.md D.2).

    Args:
        model: in eval mode, from images in [0, 1] to logits [n, C], C >= 4.
        x: images that the model gets right.
        y: their labels.
        draws: of U(0, 1); they decide the start.
        eps: radius of the l-infinity ball, pixel range.
        steps: iterations.
        target: rank of the target class among the wrong ones by clean logit, from 1.
        targets: number of targets of the whole attack; torchattacks has ``n_classes - 1``.

    Returns:
        An adversarial image where the attack found one, else the clean image.

    Raises:
        UserError: the model's gradient is not finite.
    """
    attack = torchattacks.attacks.apgdt.APGDT(
        _Victim(model, x.device),
        norm="Linf",
        eps=eps,
        steps=steps,
        n_restarts=1,
        seed=0,
        n_classes=targets + 1,
    )
    attack.target_class = target + 1  # place in the sorted logits, whose first is the label
    return _found(attack, torchattacks.attacks.apgdt, x, y, draws)


def _found(
    attack: torchattacks.attacks.apgd.APGD | torchattacks.attacks.apgdt.APGDT,
    module: ModuleType,
    x: Tensor,
    y: Tensor,
    draws: Tensor,
) -> Tensor:
    # It enables gradients for its losses; outside them, a graph would keep every iterate alive.
    with torch.no_grad(), _drawing(module, draws):
        _, still_right, _, adversarial = attack.attack_single_run(x, y)
    return torch.where(still_right[:, None, None, None], x, adversarial)
