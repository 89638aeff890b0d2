"""Signs that a robust accuracy is an attack's failure and not a model's merit (docs/errors.md).

Every sign has a code, which the note begins with and which docs/errors.md explains. The ladder of
docs/method.md D.3 is run on a few images beside the ensemble: it decides nothing, it only warns.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pistole.robust.components import square
from pistole.robust.modes import device_of, exact_fp32, frozen
from pistole.robust.pgd import Budget, pgd_by_id
from pistole.seeds import derive, generator

LARGE = 64 / 255  # a ball in which everything can be broken
QUERIES = 100  # of the black-box attack of the ladder
STARTS = 3  # random starts of PGD-10
SLACK = 0.002  # share of the images that a weaker attack may break on top: the reference's alpha
LIMITS = {"EV01": 0.05, "EV05": 0.05, "EV06": 0.05, "EV07": 0.05}


def note(code: str, text: str) -> str:
    """Write a note that leads to its paragraph.

    Args:
        code: of docs/errors.md.
        text: what was seen.

    Returns:
        One line.
    """
    return f"{code}: {text} (docs/errors.md#{code.lower()})"


@dataclass(frozen=True)
class Ladder:
    """Accuracies of one model on the same few images, from the weakest attack on.

    Attributes:
        images: how many.
        clean: accuracy.
        pgd_2: after two steps of PGD.
        pgd_10: after ten steps.
        apgd_ce: after the ensemble's APGD-CE.
        robust: after the whole ensemble.
        large: after ten steps of PGD in a ball of 64/255.
        square_only: share that 100 queries of Square break and the ensemble does not.
        start_range: largest minus smallest accuracy over random starts of PGD-10.
        falling: share of the right images whose cross-entropy PGD-10 did not raise.
    """

    images: int
    clean: float
    pgd_2: float
    pgd_10: float
    apgd_ce: float
    robust: float
    large: float
    square_only: float
    start_range: float
    falling: float


def climb(
    model: nn.Module,
    x: Float[Tensor, "n c h w"],
    y: Int[Tensor, " n"],
    ids: Sequence[str],
    apgd_ce: Bool[Tensor, " n"],
    robust: Bool[Tensor, " n"],
    *,
    eps: float,
    seed: int,
) -> Ladder:
    """Attack a few images with attacks of rising strength (docs/method.md D.3).

    Args:
        model: from images in [0, 1] to logits.
        x: images.
        y: their labels.
        ids: sample ids, which the starts are drawn from.
        apgd_ce: which the model gets right after the ensemble's APGD-CE.
        robust: which it gets right after the whole ensemble.
        eps: radius of the l-infinity ball, pixel range.
        seed: run seed.

    Returns:
        The accuracies.
    """
    device = device_of(model)
    x, y = x.to(device), y.to(device)

    def attacked(steps: int, radius: float, start: int = 0) -> Tensor:
        budget = Budget(radius, min(1.0, 2.5 * radius / steps), steps, "uniform_eps")
        return pgd_by_id(model, x, y, ids, budget, derive(seed, "ladder", start))

    with exact_fp32(device), frozen(model), torch.no_grad():
        clean = model(x)
        right = clean.argmax(1) == y

        def accuracy(found: Tensor) -> float:
            return (right & (model(found).argmax(1) == y)).float().mean().item()

        tens = [attacked(10, eps, start) for start in range(STARTS)]
        by_start = [accuracy(found) for found in tens]
        before, after = (cross_entropy(z, y, reduction="none") for z in (clean, model(tens[0])))
        draws = torch.stack([torch.rand(x.shape[1:], generator=generator(seed, i)) for i in ids])
        found = square(
            model, x, y, draws.to(device), eps=eps, queries=QUERIES, seed=derive(seed, "ladder")
        )
        by_square = robust.to(device) & (model(found).argmax(1) != y)
        return Ladder(
            images=len(x),
            clean=right.float().mean().item(),
            pgd_2=accuracy(attacked(2, eps)),
            pgd_10=by_start[0],
            apgd_ce=apgd_ce.float().mean().item(),
            robust=robust.float().mean().item(),
            large=accuracy(attacked(10, LARGE)),
            square_only=by_square.float().mean().item(),
            start_range=max(by_start) - min(by_start),
            falling=((after <= before) & right).sum().item() / max(int(right.sum()), 1),
        )


def warnings(ladder: Ladder) -> list[str]:
    """Judge a ladder.

    Args:
        ladder: of :func:`climb`.

    Returns:
        One note per sign; empty if there is none.
    """
    found, rungs = [], ("clean", "pgd_2", "pgd_10", "apgd_ce", "robust")
    for weak, strong in itertools.pairwise(rungs):
        before, after = getattr(ladder, weak), getattr(ladder, strong)
        if after > before + SLACK:
            text = f"{strong} leaves {after:.1%} right, the weaker {weak} only {before:.1%}"
            found.append(note("EV03", text))
    for code, value, text in (
        ("EV05", ladder.large, "are right in a ball of 64/255, where all can be broken"),
        ("EV06", ladder.start_range, "is between the accuracies of PGD-10 from other starts"),
        ("EV07", ladder.falling, "of the right images have no higher loss after PGD-10"),
    ):
        if value > LIMITS[code]:
            found.append(note(code, f"{value:.1%} {text}"))
    if ladder.square_only > SLACK:
        found.append(square_note(ladder.square_only))
    return found


def square_note(share: float) -> str:
    """Write the note on a black-box attack that beats the white-box ones.

    Args:
        share: of the images.

    Returns:
        One line.
    """
    return note("EV04", f"Square, which sees no gradient, breaks {share:.1%} on top of the others")
