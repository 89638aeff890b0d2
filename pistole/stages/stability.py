"""Stage ``stability@SOURCE``: the four score variants of the ablation from one trajectory."""

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from pistole.errors import UserError
from pistole.files import atomic_directory, save_tensors, write_csv, write_json
from pistole.method.criticality import antithetic_pci, pci_weights
from pistole.method.reliability import spearman, split_half_reliability
from pistole.method.trajectory import StepGradients, trajectory_scores
from pistole.params import Params
from pistole.progress import counting, say
from pistole.seeds import derive
from pistole.stages.losses import Objective, calibration_budget
from pistole.stages.runtime import classifier, device_of, tower
from pistole.stages.slices import read_slice
from pistole.stages.towers import require_source

Tensors = dict[str, Tensor]
RELIABLE = 0.5  # docs/method.md A.3.1: below this median the score is mostly noise


def run(
    params: Params, source: str, base: Path, checkpoint: Path, data: Path, out: Path
) -> dict[str, float]:
    """Estimate how sensitive a source's own loss is to each parameter.

    The natural source is scored on clean images, the robust one on adversarial images made
    against the current point of the trajectory (docs/method.md A.3 to A.5).

    Args:
        params: ``stability`` (without the masks' keys) and ``attack.calibration`` are read.
        source: ``natural`` or ``robust``.
        base: what stage ``base`` wrote.
        checkpoint: the fine-tuned source.
        data: the fine-tuning dataset; its held-out slice ``score`` is used.
        out: folder for one safetensors file per variant, ``reliability.csv``, ``weights.csv``.

    Returns:
        Median split-half reliability per variant and of the PCI weights.

    Raises:
        UserError: the score slice has an odd number of images.
    """
    require_source(source)
    knobs, device = params.stability, device_of(params)
    images = read_slice(data, "score")
    if len(images) % 2:
        raise UserError(f"slices.score is {len(images)}: split halves need an even number")
    model = classifier(base, images.dataset, device)
    with counting(f"stability {source}", knobs.K) as advance:
        probe = Probe(params, source, Objective(model, images, knobs.batch_size), advance)
        scores = trajectory_scores(
            tower(checkpoint, base, device),
            probe.gradients,
            steps=knobs.K,
            eta=knobs.eta,
            beta=knobs.beta,
            ball=knobs.ball,
            perturb_1d=knobs.perturb_1d,
        )
    reliability = {v: split_half_reliability(*halves) for v, halves in scores.halves.items()}
    medians = {
        variant: statistics.median(layers.values()) for variant, layers in reliability.items()
    }
    for variant, median in medians.items():
        if median < RELIABLE:
            say(
                f"warning: {source}/{variant}: median split-half reliability {median:.2f} is below "
                f"{RELIABLE}: the score is mostly noise, raise slices.score"
            )
    with atomic_directory(out) as folder:
        for variant, tensors in scores.scores.items():
            save_tensors(
                folder / f"{variant}.safetensors", tensors, {"source": source, "variant": variant}
            )
        write_csv(
            folder / "reliability.csv",
            ("variant", "layer", "spearman"),
            (
                {"variant": variant, "layer": layer, "spearman": value}
                for variant, layers in reliability.items()
                for layer, value in layers.items()
            ),
        )
        write_csv(folder / "weights.csv", ("step", "id", "pci", "weight"), probe.weight_rows())
        write_json(
            folder / "summary.json",
            {"reliability": medians, "pci_reliability": probe.pci_reliability},
        )
    return {f"reliability/{v}": m for v, m in medians.items()} | {
        "pci_reliability": statistics.fmean(probe.pci_reliability)
    }


class Probe:
    """The gradients of one source's objective along the trajectory."""

    def __init__(
        self,
        params: Params,
        source: str,
        objective: Objective,
        on_step: Callable[[str], None] = lambda note: None,
    ) -> None:
        """Hold what the gradients are taken of.

        Args:
            params: validated parameters.
            source: ``natural`` or ``robust``.
            objective: the loss on the score slice.
            on_step: told of every finished step.
        """
        self.params, self.source, self.objective = params, source, objective
        self.on_step = on_step
        self.attacked: Tensor | None = None
        self.weights: list[tuple[Tensor, Tensor]] = []
        self.pci_reliability: list[float] = []

    def gradients(self, step: int, theta: Tensors) -> StepGradients:
        """Return plain and PCI-weighted mean gradients over both halves of the slice.

        Args:
            step: number of the trajectory's step.
            theta: its point.

        Returns:
            Gradients of the mean cross-entropy, per half.
        """
        pixels = self._inputs(step, theta)
        weights = self._weights(step, theta, pixels)
        # Alternate images make two halves that are as class-balanced as the slice is.
        even, odd = (torch.arange(first, len(pixels), 2) for first in (0, 1))
        mean_gradient = self.objective.mean_gradient
        found = StepGradients(
            plain=(
                mean_gradient(theta, pixels, chosen=even),
                mean_gradient(theta, pixels, chosen=odd),
            ),
            weighted=(
                mean_gradient(theta, pixels, weights, even),
                mean_gradient(theta, pixels, weights, odd),
            ),
        )
        self.on_step(f"point {step + 1} of the trajectory")
        return found

    def weight_rows(self) -> Iterator[dict[str, object]]:
        """Yield step, sample id, PCI and weight of every sample at every step."""
        ids = self.objective.images.ids
        for step, (pci, weights) in enumerate(self.weights):
            for name, value, weight in zip(ids, pci.tolist(), weights.tolist(), strict=True):
                yield {"step": step, "id": name, "pci": value, "weight": weight}

    def _inputs(self, step: int, theta: Tensors) -> Tensor:
        if self.source == "natural":
            return self.objective.clean
        if self.attacked is None or self.params.stability.regen_adv:
            seed = derive(self.params.seed, "stability", self.source, step)
            self.attacked = self.objective.attacked(theta, calibration_budget(self.params), seed)
        return self.attacked

    def _weights(self, step: int, theta: Tensors, pixels: Tensor) -> Tensor:
        knobs, pci = self.params.stability, self.params.stability.pci
        estimate = antithetic_pci(
            lambda point: self.objective.log_probs(point, pixels),
            theta,
            eta=knobs.eta,
            pairs=pci.pairs,
            dist=pci.dist,
            ball=knobs.ball,
            perturb_1d=knobs.perturb_1d,
            seed=derive(self.params.seed, "pci", self.source, step),
        )
        weights = pci_weights(estimate, pci.weight, clip_pct=pci.clip_pct, floor=pci.floor)
        self.weights.append((estimate.pci.cpu(), weights.cpu()))
        self.pci_reliability.append(spearman(estimate.first_half.abs(), estimate.second_half.abs()))
        return weights
