"""The evaluation ensemble: APGD-CE, then APGD-T on the survivors (docs/method.md D.2).

The two attacks are torchattacks' components with the parameters of the reference AutoAttack;
``torchattacks.AutoAttack`` itself is a weaker one and is not used. Whether an image is broken is
what the model predicts on the checked adversarial image, not what the attack reports.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pistole.errors import UserError
from pistole.robust.checks import (
    check_adversarial,
    check_deterministic,
    check_images,
    looks_like_logits,
    zero_gradient_fraction,
)
from pistole.robust.components import apgd_ce, apgd_t
from pistole.robust.modes import device_of, exact_fp32, frozen, require_fp32
from pistole.seeds import generator

DLR_CLASSES = 4  # the targeted DLR loss divides by z1 - (z3 + z4) / 2
SATURATED = 0.05  # fraction of images without a cross-entropy gradient that is worth a note

Attempt = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
OnBatch = Callable[[str, Tensor, Tensor], None]


@dataclass(frozen=True)
class EnsembleSpec:
    """The threat model and the effort of the evaluation, l-infinity only.

    Attributes:
        eps: radius of the ball, pixel range.
        apgd_ce_steps: iterations of APGD-CE.
        apgd_ce_restarts: random starts of APGD-CE; RobustVLM's evaluation had 5.
        apgd_t_steps: iterations of APGD-T per target.
        apgd_t_restarts: random starts of APGD-T per target.
        targets: target classes of APGD-T at most; 0 leaves APGD-T out.
        batch_size: images per batch, for memory only.
    """

    eps: float
    apgd_ce_steps: int = 100
    apgd_ce_restarts: int = 1
    apgd_t_steps: int = 100
    apgd_t_restarts: int = 1
    targets: int = 9
    batch_size: int = 50

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UserError: a value is out of its range.
        """
        if not 0 <= self.eps <= 1:
            raise UserError(f"eps is {self.eps}: give pixel units in [0, 1], such as 2/255")
        if self.targets < 0:
            raise UserError(f"targets is {self.targets}: give 0 (no APGD-T) or more")
        for name in ("apgd_ce_steps", "apgd_ce_restarts", "apgd_t_steps", "apgd_t_restarts"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}: give at least 1")
        if self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}: give at least 1")

    def describe(self) -> dict:
        """Return what the outcome depends on, as JSON-able values."""
        return {
            "norm": "linf",
            "eps": self.eps,
            "apgd_ce": {"steps": self.apgd_ce_steps, "restarts": self.apgd_ce_restarts},
            "apgd_t": {
                "steps": self.apgd_t_steps,
                "restarts": self.apgd_t_restarts,
                "targets": self.targets,
            },
        }


@dataclass(frozen=True)
class Outcomes:
    """What became of every sample.

    Attributes:
        columns: one value per sample, in input order: ``id``, ``label``, ``clean_prediction``,
            ``clean_correct``, ``apgd_ce_correct``, ``apgd_t_correct``, ``robust_correct``,
            ``broken_by`` (``clean``, ``apgd_ce``, ``apgd_t``, or empty). The attacks form a
            cascade: correct after one of them implies correct after all before it, and an attack
            that was left out changes nothing.
        notes: what a reader of the numbers has to know.
    """

    columns: dict[str, list]
    notes: tuple[str, ...]


def evaluate(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    ids: Sequence[str],
    spec: EnsembleSpec,
    *,
    seed: int,
    dataset: str,
    on_batch: OnBatch | None = None,
) -> Outcomes:
    """Attack a model on labelled images.

    An image that is wrong when clean counts as broken and is not attacked. Each start is drawn
    from (seed, dataset, sample id, attempt), so outcomes do not depend on batches. The model's
    modes, gradients and the global RNGs are as before afterwards.

    Args:
        model: from images in [0, 1] to logits; normalisation inside; fp32.
        images: fp32 pixels in [0, 1], on any device.
        labels: classes.
        ids: sample ids.
        spec: the ensemble.
        seed: run seed.
        dataset: name that the starts are drawn under.
        on_batch: called after each attacked batch with the attempt's name, the positions of its
            samples and their adversarial images.

    Returns:
        The outcomes.

    Raises:
        UserError: unfit model, images, labels or ids.
    """
    check_images(images)
    if not len(images) == len(labels) == len(ids):
        raise UserError(
            f"{len(images)} images, {len(labels)} labels, {len(ids)} ids: give one of each a sample"
        )
    if labels.dtype != torch.int64 or labels.ndim != 1:
        raise UserError(
            f"labels are {labels.dtype} {tuple(labels.shape)}: give int64 class numbers [n]"
        )
    require_fp32(model)
    run = _Run(model, images, labels, ids, spec, seed, dataset, on_batch)
    with exact_fp32(run.device), frozen(model):
        predictions, classes = run.clean()
        correct = predictions == labels.cpu()
        after_ce = after_t = correct
        notes = []
        if spec.eps > 0:
            notes += run.saturation(correct)
            targets = min(spec.targets, classes - 1) if classes >= DLR_CLASSES else 0
            after_ce = run.cascade(correct, _ce_attempts(spec))
            after_t = run.cascade(after_ce, _t_attempts(spec, targets))
            notes += _target_notes(spec, classes, targets)
    masks = {"clean": correct, "apgd_ce": after_ce, "apgd_t": after_t}
    return Outcomes(_columns(ids, labels, predictions, masks), tuple(notes))


def _ce_attempts(spec: EnsembleSpec) -> Iterator[tuple[str, Attempt]]:
    for restart in range(spec.apgd_ce_restarts):
        yield f"apgd_ce/{restart}", partial(apgd_ce, eps=spec.eps, steps=spec.apgd_ce_steps)


def _t_attempts(spec: EnsembleSpec, targets: int) -> Iterator[tuple[str, Attempt]]:
    for target in range(1, targets + 1):
        attack = partial(
            apgd_t, eps=spec.eps, steps=spec.apgd_t_steps, target=target, targets=targets
        )
        for restart in range(spec.apgd_t_restarts):
            yield f"apgd_t/{target}/{restart}", attack


def _target_notes(spec: EnsembleSpec, classes: int, targets: int) -> list[str]:
    if targets == spec.targets:
        return []
    if targets == 0:
        return [f"{classes} classes: APGD-T left out, its loss needs {DLR_CLASSES}"]
    return [f"{classes} classes: APGD-T tries {targets} targets instead of {spec.targets}"]


def _columns(
    ids: Sequence[str], labels: Tensor, predictions: Tensor, masks: dict[str, Tensor]
) -> dict[str, list]:
    broken_by = [""] * len(ids)
    for name, mask in reversed(masks.items()):
        for position in (~mask).nonzero()[:, 0].tolist():
            broken_by[position] = name
    return {
        "id": list(ids),
        "label": labels.tolist(),
        "clean_prediction": predictions.tolist(),
        **{f"{name}_correct": mask.tolist() for name, mask in masks.items()},
        "robust_correct": masks["apgd_t"].tolist(),
        "broken_by": broken_by,
    }


@dataclass(frozen=True)
class _Run:
    """One evaluation: what is attacked and how its batches are made."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    ids: Sequence[str]
    spec: EnsembleSpec
    seed: int
    dataset: str
    on_batch: OnBatch | None

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    def batches(self, chosen: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield positions, images and labels of the samples where ``chosen`` is true."""
        positions = chosen.nonzero()[:, 0]
        for start in range(0, len(positions), self.spec.batch_size):
            part = positions[start : start + self.spec.batch_size]
            rows = part.to(self.images.device)
            yield (
                part,
                self.images[rows].to(self.device),
                self.labels[part.to(self.labels.device)].to(self.device),
            )

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        if logits.dtype != torch.float32:
            raise UserError(f"the model returns {logits.dtype}: attacks run in fp32")
        if not logits.isfinite().all():
            raise UserError("the model returns NaN or infinity: check its weights")
        return logits

    def clean(self) -> tuple[Tensor, int]:
        """Return clean predictions, on the CPU, and the number of classes."""
        predictions, classes = [], 0
        for _, x, _ in self.batches(torch.ones(len(self.images), dtype=torch.bool)):
            logits = self.logits(x)
            if not predictions:
                classes = logits.shape[1]
                check_deterministic(self.model, x)
                self._check_outputs(logits)
            predictions.append(logits.argmax(1).cpu())
        return torch.cat(predictions), classes

    def _check_outputs(self, logits: Tensor) -> None:
        if not looks_like_logits(logits):
            raise UserError("the model returns probabilities: give logits, softmax hides gradients")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= logits.shape[1]:
            raise UserError(
                f"labels span {low} to {high}: the model has classes 0 to {logits.shape[1] - 1}"
            )

    def saturation(self, correct: Tensor) -> list[str]:
        """Note the share of images on which the cross-entropy gives no direction."""
        flat = 0
        for part, x, y in self.batches(correct):
            # A count, because sums of fractions round differently with other batches.
            flat += round(zero_gradient_fraction(self.model, x, y) * len(part))
        share = flat / max(int(correct.sum()), 1)
        if share <= SATURATED:
            return []
        return [f"{share:.0%} of the images have no cross-entropy gradient: APGD-CE is weak there"]

    def cascade(self, alive: Tensor, attempts: Iterator[tuple[str, Attempt]]) -> Tensor:
        """Return which samples survive all attempts; each attempt sees the survivors so far."""
        alive = alive.clone()
        for name, attack in attempts:
            for part, x, y in self.batches(alive):
                adversarial = attack(self.model, x, y, self.draws(name, part, x.shape[1:]))
                check_adversarial(x, adversarial, self.spec.eps)
                alive[part] = (self.logits(adversarial).argmax(1) == y).cpu()
                if self.on_batch is not None:
                    self.on_batch(name, part, adversarial)
        return alive

    def draws(self, attempt: str, positions: Tensor, shape: torch.Size) -> Tensor:
        """U(0, 1) per sample, a function of the sample's id and the attempt alone."""
        parts = []
        for position in positions.tolist():
            name = (self.seed, "ensemble", self.dataset, self.ids[position], attempt)
            parts.append(torch.rand(shape, generator=generator(*name)))
        return torch.stack(parts)
