"""torchattacks' attacks, one run each, from a start that the caller draws.

torchattacks draws with ``torch.rand`` after seeding the global RNG, so a sample's noise depends on
its place in the batch. Here the attack's own module sees a ``torch`` whose ``rand`` returns the
caller's draws, for the length of one call (:mod:`pistole.robust.victim`). Nothing else of the
attack is changed. Restarts, targets and the choice of survivors belong to
:mod:`pistole.robust.ensemble`. Not safe in several threads. torchattacks is imported where
it attacks: it brings scipy.stats, which takes longer to import than a small model's first batch.
"""

import contextlib
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pistole.robust.victim import EarlyExit, Finished, Victim, drawing, given
from pistole.seeds import generator


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
    victim = EarlyExit(model, x, y, steps + 1)
    from torchattacks.attacks import apgd

    attack = apgd.APGD(victim, norm="Linf", eps=eps, steps=steps, n_restarts=1, seed=0, loss="ce")
    return _found(attack, apgd, victim, x, draws)


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
    victim = EarlyExit(model, x, y, steps + 1)
    from torchattacks.attacks import apgdt

    attack = apgdt.APGDT(
        victim,
        norm="Linf",
        eps=eps,
        steps=steps,
        n_restarts=1,
        seed=0,
        n_classes=targets + 1,
    )
    attack.target_class = target + 1  # place in the sorted logits, whose first is the label
    return _found(attack, apgdt, victim, x, draws)


def _found(attack: Any, module: ModuleType, victim: EarlyExit, x: Tensor, draws: Tensor) -> Tensor:
    # It enables gradients for its losses; outside them, a graph would keep every iterate alive.
    with torch.no_grad(), drawing(module, given(draws)), contextlib.suppress(Finished):
        attack.attack_single_run(x, victim.labels)
    return victim.found


def fab_t(
    model: nn.Module,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, " n"],
    *,
    eps: float,
    steps: int,
    target: int,
    targets: int,
) -> Float[Tensor, "n c h w"]:
    """Run targeted FAB once, against one target (Croce & Hein 2020b; docs/method.md D.2).

    It looks for the nearest wrong image, starts at the clean one and draws nothing.

    Args:
        model: in eval mode, from images in [0, 1] to logits [n, C].
        x: images that the model gets right.
        y: their labels.
        eps: radius of the l-infinity ball, pixel range.
        steps: iterations.
        target: rank of the target class among the wrong ones by clean logit, from 1.
        targets: number of targets of the whole attack.

    Returns:
        An image inside the ball where the attack found a wrong one there, else the clean image.

    Raises:
        UserError: the model's gradient is not finite.
    """
    from torchattacks.attacks import fab

    attack = fab.FAB(
        Victim(model, x.device),
        norm="Linf",
        eps=eps,
        steps=steps,
        n_restarts=1,
        seed=0,
        multi_targeted=True,
        n_classes=targets + 1,
    )
    attack.target_class = target + 1
    nearest = attack.attack_single_run_targeted(x, y, use_rand_start=False)
    # Where the gradient is zero its hyperplane is undefined and its image may be NaN.
    inside = ((nearest - x).abs().flatten(1).amax(1) <= eps) & nearest.isfinite().flatten(1).all(1)
    return torch.where(inside[:, None, None, None], nearest, x)


def square(
    model: nn.Module,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, " n"],
    draws: Float[Tensor, "n c h w"],
    *,
    eps: float,
    queries: int,
    seed: int,
) -> Float[Tensor, "n c h w"]:
    """Run Square on the margin once (Andriushchenko et al. 2020; docs/method.md D.2).

    The schedule of the squares' sizes is the reference's, which is made for 10,000 queries and
    not shortened. As in torchattacks all images of a run get the same squares; here those of
    other batches do too, so that batches do not matter.

    Args:
        model: in eval mode, from images in [0, 1] to logits [n, C].
        x: images that the model gets right.
        y: their labels.
        draws: of U(0, 1); their first rows decide the stripes that each image starts with.
        eps: radius of the l-infinity ball, pixel range.
        queries: forward passes.
        seed: of the squares' places and signs.

    Returns:
        The image with the smallest margin that was found.
    """
    from torchattacks.attacks import square

    attack = square.Square(
        Victim(model, x.device),
        norm="Linf",
        eps=eps,
        n_queries=queries,
        n_restarts=1,
        p_init=0.8,
        loss="margin",
        resc_schedule=False,
        seed=0,
    )
    stripes, squares = [draws[:, :, :1]], generator(seed, "squares")

    def rand(shape: torch.Size) -> Tensor:
        return (
            given(stripes.pop())(torch.Size(shape))
            if stripes
            else torch.rand(tuple(shape), generator=squares)
        )

    attack.init_hyperparam(x)
    with torch.no_grad(), drawing(square, rand):
        return attack.attack_single_run(x, y)[1]
