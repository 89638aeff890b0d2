"""APGD for one image, written from the formulas of Croce & Hein 2020 (arXiv 2003.01690).

Algorithm 1, its two conditions, its checkpoints, and the losses, in the paper's symbols. The code
that the authors released, which torchattacks follows, reads the text differently in five places
(marked ``released`` below); both readings are here. Slow, and no line of it is shared with them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

ALPHA, RHO = 0.75, 0.75

Loss = Callable[[Tensor], Tensor]  # of the logits [C] of one image; APGD maximises it


def cross_entropy(y: int) -> Loss:
    return lambda z: torch.logsumexp(z, 0) - z[y]


def targeted_dlr(y: int, target: int) -> Loss:
    """Minus (z_y - z_t) / (z_pi1 - (z_pi3 + z_pi4) / 2)."""

    def loss(z: Tensor) -> Tensor:
        ranked = z.sort(descending=True).values
        return -(z[y] - z[target]) / (ranked[0] - (ranked[2] + ranked[3]) / 2)

    return loss


def checkpoints(steps: int) -> list[int]:
    """w_j = ceil(p_j steps); p_0 = 0, p_1 = 0.22, the gaps shrink by 0.03 down to 0.06."""
    places = [Fraction(0), Fraction(22, 100)]
    while places[-1] <= 1:
        gap = max(places[-1] - places[-2] - Fraction(3, 100), Fraction(6, 100))
        places.append(places[-1] + gap)
    return [math.ceil(place * steps) for place in places[:-1]]


def start_of(x: Tensor, draws: Tensor, eps: float) -> Tensor:
    """x + eps t / max |t|, t uniform in [-1, 1], in the pixel range."""
    t = 2 * draws - 1
    return (x + eps * t / t.abs().max()).clamp(0, 1)


@dataclass
class Point:
    """An iterate, with f and its gradient there, and whether the model is still right."""

    x: Tensor
    f: float
    gradient: Tensor
    right: bool


@dataclass
class Found:
    """f_max, x_max, whether any iterate was misclassified, and how often the step was halved."""

    f_max: float
    x_max: Tensor
    broken: bool
    halvings: int


def evaluated(model: nn.Module, x: Tensor, y: int, loss: Loss) -> Point:
    x = x.detach().requires_grad_()
    logits = model(x[None])[0]
    f = loss(logits)
    (gradient,) = torch.autograd.grad(f, x)
    return Point(x.detach(), f.item(), gradient, logits.argmax().item() == y)


def apgd(
    model: nn.Module,
    x: Tensor,
    y: int,
    start: Tensor,
    loss: Loss,
    *,
    eps: float,
    steps: int,
    released: bool,
) -> Found:
    def project(point: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(point, x - eps), x + eps).clamp(0, 1)

    def ascended(point: Point) -> Tensor:
        return project(point.x + eta * point.gradient.sign())

    eta, halvings = 2 * eps, 0
    points = [evaluated(model, start, y, loss)]
    points.append(evaluated(model, ascended(points[0]), y, loss))
    best = points[0] if points[0].f >= points[1].f else points[1]
    broken = not (points[0].right and points[1].right)
    f = [point.f for point in points]  # f[i] = f(x^(i)), for condition 1
    if released:
        f[0] = 0.0  # the released code compares f(x^(1)) with an empty record
    # The released code tests condition 2 from the second checkpoint on.
    eta_before, f_max_before = (None if released else eta), points[0].f
    w, j = checkpoints(steps), 1
    for k in range(1, steps):
        now, before = points[k], points[k - 1]
        step = ALPHA * (ascended(now) - now.x) + (1 - ALPHA) * (now.x - before.x)
        points.append(evaluated(model, project(now.x + step), y, loss))
        f.append(points[-1].f)
        broken |= not points[-1].right
        if points[-1].f > best.f:
            best = points[-1]
        # The released code looks as soon as x^(w_j) is known, the text one iteration later.
        if j < len(w) and w[j] == (k + 1 if released else k):
            rises = sum(f[i + 1] > f[i] for i in range(w[j - 1], w[j]))
            enough = RHO * (w[j] - w[j - 1])
            slow = rises <= enough if released else rises < enough
            stuck = eta == eta_before and best.f == f_max_before
            eta_before, f_max_before, j = eta, best.f, j + 1
            if slow or stuck:
                eta, halvings = eta / 2, halvings + 1
                points[-1] = best
                if not released:  # which goes on counting from the iterate that it discarded
                    f[-1] = best.f
    return Found(best.f, best.x, broken, halvings)
