"""aTLAS (Zhang et al., NeurIPS 2024; docs/method.md C)."""

from dataclasses import dataclass
from typing import ClassVar

from pistole.baselines.coefficients import LearnedCoefficients

LR, WEIGHT_DECAY, CLIP, EPOCHS = 1e-3, 0.1, 1.0, 10


@dataclass(frozen=True, kw_only=True)
class Atlas(LearnedCoefficients):
    """One coefficient per tensor (or random part of it) and vector, of least cross-entropy.

    min_c CE(x, y) + CE(x_adv, y) at theta_0^l + sum_t c_t^l tau_t^l, x_adv from PGD against the
    model as it is merged at that step. Data need: labelled. Defaults of the official repository:
    c = 0 at first, AdamW of rate 1e-3 and weight decay 0.1, gradients of norm at most 1, ten
    epochs in effect (its script's ``args.epoch = 20`` misspells ``epochs``), no clamp; its few-shot
    recipe has rate 0.1 on a cosine. Deviations: the adversarial half is ours, the rate is constant
    and the last coefficients are taken, not those of the best epoch on validation images.
    :class:`LearnedCoefficients` says what lambda weighs.
    """

    needs: ClassVar[str | None] = "atlas"
