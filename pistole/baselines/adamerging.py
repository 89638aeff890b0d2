"""AdaMerging (Yang et al., ICLR 2024; docs/method.md C)."""

from dataclasses import dataclass
from typing import ClassVar

from pistole.baselines.coefficients import LearnedCoefficients
from pistole.baselines.learning import Descent

INIT = 0.3
DESCENT = Descent(steps=500, lr=1e-3)  # Adam


@dataclass(frozen=True, kw_only=True)
class LayerWiseAdaMerging(LearnedCoefficients):
    """One coefficient per tensor and vector, of least mean entropy on clean images.

    min_c E H(softmax z(x; theta_0^l + sum_t c_t^l tau_t^l)). Data need: unlabelled. Defaults of
    the official repository: c = 0.3 at first, Adam of rate 1e-3, 500 steps of 16 images, c in
    [0, 1]. Deviations: held-out training images, where the original adapts to test images; the
    step ends in [0, 1], where the original clamps in the forward pass, so that a coefficient
    that left has no gradient to return by; one batch per step, where the original's loop draws
    two. :class:`LearnedCoefficients` says what lambda weighs.
    """

    needs: ClassVar[str | None] = "ada_layer"


@dataclass(frozen=True, kw_only=True)
class TaskWiseAdaMerging(LearnedCoefficients):
    """As :class:`LayerWiseAdaMerging`, with one coefficient per vector for all tensors."""

    needs: ClassVar[str | None] = "ada_task"


@dataclass(frozen=True, kw_only=True)
class MixedLayerWiseAdaMerging(LearnedCoefficients):
    """As :class:`LayerWiseAdaMerging`, on clean and adversarial images with equal weight.

    Adversarial images are PGD's against the model as it is merged at that step, away from its own
    prediction on the clean image: no label is read. Low entropy under attack may mean a sharpened
    wrong label; the preparation's numbers tell.
    """

    needs: ClassVar[str | None] = "ada_layer_mix"


@dataclass(frozen=True, kw_only=True)
class MixedTaskWiseAdaMerging(LearnedCoefficients):
    """As :class:`MixedLayerWiseAdaMerging`, with one coefficient per vector for all tensors."""

    needs: ClassVar[str | None] = "ada_task_mix"
