"""DisTaC: conditioning task vectors by scale and distillation (docs/method.md C.4).

tau_t' = theta - theta_0 at the minimum of KL(softmax(z_T/T_T) || softmax(z_S/T_S)) T_T T_S +
beta ||theta - theta_a||^2, from theta_a = theta_0 + kappa_t tau_t, where the teacher is
theta_0 + tau_t. kappa_t = min(1, mean of the other norms / ||tau_t||): the longer vector shrinks.
T = (10, 10); (1, 10) for the robust vector, whose model is of low confidence. Any merging method
may follow (:func:`pistole.baselines.adapters.conditioned`). Data need: unlabelled, clean images,
and adversarial ones for the robust vector. Defaults of the official repository: beta = 0.1, 500
steps of Adam with rate 1e-5, gradients of norm at most 1 (the anchor's part included). Deviations:
tensors are matched by name, where the original pairs them by position; the rate is constant; a
vector with kappa = 1 and equal temperatures, whose minimum is the vector itself, is not learned.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from pistole.baselines.learning import Descent, Loss, OnStep, descend, ignore
from pistole.errors import UserError
from pistole.method.vectors import Params, Real

BETA = 0.1
DESCENT = Descent(steps=500, lr=1e-5, clip=1.0)
SOFT, SHARPENING = (10.0, 10.0), (1.0, 10.0)  # temperatures of teacher and student


def scales(norms: Sequence[Real]) -> list[float]:
    """kappa_t = min(1, mean of the other norms / ||tau_t||) (docs/method.md C.4).

    Args:
        norms: ||tau_t||_2 of the task vectors.

    Returns:
        One factor per vector; a vector without others that are not 0 keeps its length.
    """
    factors = []
    for place, norm in enumerate(norms):
        others = [other for at, other in enumerate(norms) if at != place and other > 0]
        if not others or norm == 0:
            factors.append(1.0)
        else:
            factors.append(min(1.0, sum(others) / len(others) / norm))
    return factors


def distillation(
    teacher: Float[Tensor, "n c"],
    student: Float[Tensor, "n c"],
    temperatures: tuple[Real, Real],
) -> Float[Tensor, ""]:
    """KL(softmax(z_T / T_T) || softmax(z_S / T_S)) T_T T_S, mean over images (docs/method.md C.4).

    Args:
        teacher: z_T.
        student: z_S.
        temperatures: T_T and T_S.

    Returns:
        The divergence, at least 0 but for rounding.
    """
    warm, cool = temperatures
    target, found = (teacher / warm).log_softmax(1), (student / cool).log_softmax(1)
    return warm * cool * (target.exp() * (target - found)).sum(1).mean()


def condition(
    theta_0: Params,
    tau: Params,
    loss: Loss,
    descent: Descent,
    *,
    kappa: Real,
    beta: Real = BETA,
    on_step: OnStep = ignore,
) -> tuple[Params, list[float]]:
    """Distil: loss(theta_0 + v) + beta ||v - kappa tau||^2, least (docs/method.md C.4).

    The displacement v moves from kappa tau on, so that no steps give exactly that.

    Args:
        theta_0: the base.
        tau: a task vector, same names and shapes.
        loss: distance of the student's predictions from the teacher's, of the student's parameters
            and the step's number.
        descent: how long and how fast.
        kappa: scale of the vector.
        beta: weight of the anchor.
        on_step: called after each step.

    Returns:
        The conditioned vector v, and the loss before each step, anchor included.

    Raises:
        UserError: kappa or beta is negative or not finite, or learning diverged.
    """
    for what, value in {"kappa": kappa, "beta": beta}.items():
        if not 0 <= value < float("inf"):
            raise UserError(f"{what} is {value}: give a finite number, 0 or more")
    moved = {name: (kappa * value).requires_grad_() for name, value in tau.items()}

    def total(step: int) -> Tensor:
        student = {name: base + moved[name] for name, base in theta_0.items()}
        away = sum((moved[name] - kappa * value).square().sum() for name, value in tau.items())
        return loss(student, step) + beta * away

    losses = descend(list(moved.values()), total, descent, on_step=on_step)
    return {name: value.detach() for name, value in moved.items()}, losses


def norm_of(vector: Params) -> float:
    """||tau||_2 over all tensors, summed in double precision.

    Args:
        vector: a task vector.

    Returns:
        The norm.
    """
    return sum(value.double().square().sum().item() for value in vector.values()) ** 0.5
