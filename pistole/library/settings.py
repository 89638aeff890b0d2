"""All settings of the method in one place, with the defaults of docs/method.md A.8."""

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pistole.errors import UserError
from pistole.method.masks import MaskSettings
from pistole.params.schema import Pci, Pgd, Stability


@dataclass(frozen=True)
class Evaluate:
    """The part of ``params.yaml`` that stage ``select`` reads of the evaluation.

    Attributes:
        batch_size: images per pass; for memory only.
    """

    batch_size: int


@dataclass(frozen=True)
class Attack:
    """The part of ``params.yaml`` that the stages ``stability`` and ``select`` read of the attacks.

    Attributes:
        eps: radius of the l-infinity ball, pixel range.
        calibration: the attack under the robust scores.
        select: the attack that a lambda is chosen under.
        evaluate: how images are divided.
    """

    eps: float
    calibration: Pgd
    select: Pgd
    evaluate: Evaluate


@dataclass(frozen=True)
class Knobs:
    """The part of ``params.yaml`` that the stages ``stability`` and ``select`` read.

    Attributes:
        seed: that all others derive from.
        stability: scores and masks.
        attack: the attacks.
    """

    seed: int
    stability: Stability
    attack: Attack


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How scores, masks and the merge are made (docs/method.md A.3 to A.8).

    Names and meanings are those of the section ``stability`` of ``params.yaml``
    (docs/parameters.md).

    Attributes:
        eps: radius of the l-infinity ball around an image, pixel range.
        attack_steps: steps of the calibration attack.
        attack_alpha: size of its steps, pixel range.
        attack_init: its start: ``gaussian_0.001``, ``uniform_eps`` or ``zero``.
        K: points of the trajectory.
        eta: relative radius of the ball around the weights.
        beta: relative ascent step; None is 2 eta / K.
        ball: ``layer`` or ``global``.
        regen_adv: whether every point gets adversarial images of its own.
        perturb_1d: whether biases and norm gains move.
        pairs: antithetic pairs behind PCI.
        dist: law of the perturbation: ``sphere``, ``ball`` or ``gaussian``.
        weight: from PCI to a sample's weight: ``abs``, ``neg``, ``pos``, ``softplus``, ``rms``,
            ``one``.
        clip_pct: percentile that weights are clipped at.
        floor: least weight.
        score_stat: ``abs_mean``, ``mean_abs`` or ``rms``.
        microbatch: images per gradient of ``mean_abs``.
        variant: ``gism``, ``gism_pci``, ``gism_apt`` or ``pistole``.
        gamma: exponent on the normalised score.
        kappa: exponent of the mask.
        q: quantile level of the cap.
        cap_mode: ``none``, ``score_clip``, ``renorm``, ``mask_cap`` or ``zero_top``.
        granularity: ``tensor``, ``qkv``, ``block`` or ``global``.
        rescale: ``none``, or ``norm``: give each layer its norm before the mask.
        batch_size: images per pass; for memory only.
        seed: that all others derive from.
    """

    eps: float = 2 / 255
    attack_steps: int = 10
    attack_alpha: float = 1 / 255
    attack_init: str = "gaussian_0.001"
    K: int = 5
    eta: float = 0.005
    beta: float | None = None
    ball: str = "layer"
    regen_adv: bool = True
    perturb_1d: bool = False
    pairs: int = 4
    dist: str = "sphere"
    weight: str = "abs"
    clip_pct: float = 95.0
    floor: float = 0.1
    score_stat: str = "abs_mean"
    microbatch: int = 1
    variant: str = "pistole"
    gamma: float = 0.5
    kappa: float = 2.0
    q: float = 0.999
    cap_mode: str = "renorm"
    granularity: str = "tensor"
    rescale: str = "none"
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what ``params.yaml`` would refuse.

        Raises:
            UserError: a value is out of its bounds or unknown.
        """
        self.knobs()

    def knobs(self) -> Knobs:
        """Arrange the values as ``params.yaml`` has them.

        Returns:
            What the stages ``stability`` and ``select`` read; a lambda is chosen under the effort
            of the calibration attack.

        Raises:
            UserError: a value is out of its bounds or unknown; names the first.
        """
        values: dict[str, Any] = {
            name: getattr(self, name) for name in Stability.model_fields if name != "pci"
        }
        pci = {name: getattr(self, name) for name in Pci.model_fields}
        effort = {"steps": self.attack_steps, "alpha": self.attack_alpha}
        try:
            return Knobs(
                self.seed,
                Stability(pci=Pci(**pci), **values),
                Attack(
                    self.eps,
                    calibration=Pgd(init=self.attack_init, **effort),
                    select=Pgd(init="uniform_eps", **effort),
                    evaluate=Evaluate(self.batch_size),
                ),
            )
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][-1])
            raise UserError(f"{name} is {first['input']!r}: {first['msg']}") from None

    def masks(self) -> MaskSettings:
        """Return how scores become masks."""
        names = ("gamma", "kappa", "q", "cap_mode", "granularity")
        return MaskSettings(**{name: getattr(self, name) for name in names})
