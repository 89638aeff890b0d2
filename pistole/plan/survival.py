"""Guesses at how many images stay in the ensemble: what early exits save."""

from dataclasses import dataclass, replace

from pistole.robust.spec import EnsembleSpec

EXIT = 3.0  # iterates of APGD that an image sees before one fools the model, the start included


@dataclass(frozen=True)
class Survival:
    """Which share of the images is still right at the headline's radius.

    Attributes:
        clean: when clean; only these are attacked.
        fgsm: after the single step.
        ce: after the first APGD-CE.
        t: after the first target of APGD-T.
    """

    clean: float
    fgsm: float
    ce: float
    t: float

    def at(self, ratio: float) -> "Survival":
        """Carry the shares over to another radius, as if accuracy fell geometrically with it.

        Args:
            ratio: the radius over the headline's.

        Returns:
            The shares there.
        """
        if not self.clean:
            return self
        fgsm, ce, t = (
            self.clean * (part / self.clean) ** ratio for part in (self.fgsm, self.ce, self.t)
        )
        return Survival(self.clean, fgsm, ce, t)


EVERY = Survival(1.0, 1.0, 1.0, 1.0)  # no exit at all: an upper bound for any model
# Clean, ce and t: means of 13 zero-shot sets at 2/255 in published tables of ViT-L/14
# (docs/method.md F.3), rounded; all of a model without adversarial training falls to APGD-CE. FGSM
# is in no table: its shares are guesses. What these shares will be is the result of the run.
FRAGILE = Survival(0.70, 0.15, 0.0, 0.0)
STURDY = Survival(0.65, 0.50, 0.46, 0.44)


@dataclass(frozen=True)
class Attempt:
    """One attack's work at one radius.

    Attributes:
        name: ``fgsm``, ``apgd_ce``, ``apgd_t``, ``fab_t`` or ``square``.
        images: that it meets.
        broken: of them, those that it breaks.
        iterates: mean number of iterates that APGD shows a broken image with a gradient.
    """

    name: str
    images: float
    broken: float = 0.0
    iterates: float = EXIT


def attempts(
    images: int, spec: EnsembleSpec, classes: int | None, share: Survival
) -> list[Attempt]:
    """Expect what every attempt of the ensemble meets, at all its radii.

    The headline's radius and the smallest one see all that are right when clean, any other one
    what the radius before it left (docs/method.md D.2).

    Args:
        images: of the task.
        spec: the ensemble.
        classes: of the task; None if unknown.
        share: which part is left at the headline's radius.

    Returns:
        The attempts by rising radius; none at radius 0.
    """
    right = alive = images * share.clean
    dlr = spec.targets_of(classes) * spec.apgd_t_restarts
    found, share = [], share if dlr else replace(share, t=share.ce)
    for radius in sorted({spec.eps, *spec.radii}):
        at = share.at(radius / spec.eps if spec.eps > 0 else 1.0)
        enter = right if radius == spec.eps else alive
        if radius > 0:
            found += _at_one_radius(images, enter, spec, classes, at)
        alive = min(alive, images * at.t)
    return found


def _at_one_radius(
    images: int, enter: float, spec: EnsembleSpec, classes: int | None, share: Survival
) -> list[Attempt]:
    fgsm, ce, t = (min(enter, images * part) for part in (share.fgsm, share.ce, share.t))
    dlr = spec.targets_of(classes) * spec.apgd_t_restarts
    fab = spec.targets_of(classes, least=2) if spec.fab_t_steps else 0
    return [
        Attempt("fgsm", enter, enter - fgsm),
        Attempt("apgd_ce", fgsm, fgsm - ce),
        *[Attempt("apgd_ce", ce)] * (spec.apgd_ce_restarts - 1),
        *([Attempt("apgd_t", ce, ce - t)] if dlr else []),
        *[Attempt("apgd_t", t)] * (dlr - 1),
        *[Attempt("fab_t", t)] * fab,
        *([Attempt("square", t)] if spec.square_queries else []),
    ]
