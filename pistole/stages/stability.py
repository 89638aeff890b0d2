"""Stage ``stability@SOURCE``: the four score variants of the ablation from one trajectory."""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pistole.errors import UserError
from pistole.files import atomic_directory, save_tensors, write_csv, write_json
from pistole.method.criticality import antithetic_pci, pci_weights
from pistole.method.reliability import spearman, split_half_reliability
from pistole.method.scores import micro_size
from pistole.method.trajectory import VariantScores, trajectory_scores
from pistole.params import Params
from pistole.progress import counting, say
from pistole.seeds import derive
from pistole.stages.losses import Objective
from pistole.stages.memory import give_back_freed_tensors
from pistole.stages.runtime import attack_budget, classifier, device_of, tower, with_parameters
from pistole.stages.scratch import zeros_in_files
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
        Median split-half reliability per variant and of the PCI weights, and the cost.

    Raises:
        UserError: the score slice has an odd number of images.
    """
    require_source(source)
    give_back_freed_tensors()
    knobs, device = params.stability, device_of(params)
    images = read_slice(data, "score")
    if len(images) % 2:
        raise UserError(f"slices.score is {len(images)}: split halves need an even number")
    model = with_parameters(
        classifier(base, images.dataset, device), tower(checkpoint, base, device)
    )
    objective = Objective(model, images, knobs.batch_size)
    theta_s = {name: value.detach() for name, value in model.visual.named_parameters()}  # no copy
    reliability: dict[str, dict[str, float]] = {}
    with atomic_directory(out) as folder, counting(f"stability {source}", knobs.K) as advance:
        probe = Probe(params, source, objective, advance)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for found in scores(params, theta_s, probe, Path(scratch)):
                reliability[found.variant] = split_half_reliability(*found.halves)
                about = {
                    "source": source,
                    "variant": found.variant,
                    "score_stat": knobs.score_stat,
                }
                save_tensors(folder / f"{found.variant}.safetensors", found.scores, about)
        rows = [
            {"variant": variant, "layer": layer, "spearman": value}
            for variant, layers in reliability.items()
            for layer, value in layers.items()
        ]
        write_csv(folder / "reliability.csv", ("variant", "layer", "spearman"), rows)
        write_csv(folder / "weights.csv", ("step", "id", "pci", "weight"), probe.weight_rows())
        medians = {v: statistics.median(layers.values()) for v, layers in reliability.items()}
        summary = {
            "score_stat": knobs.score_stat,
            "reliability": medians,
            "pci_reliability": probe.pci_reliability,
            "forward_equivalents": objective.spent,
        }
        write_json(folder / "summary.json", summary)
    _tell(source, knobs.score_stat, medians, objective)
    return {f"reliability/{v}": m for v, m in medians.items()} | {
        "pci_reliability": statistics.fmean(probe.pci_reliability),
        "forward_equivalents": objective.spent,
    }


def scores(
    params: Params, theta_s: Tensors, probe: "Probe", scratch: Path
) -> Iterator[VariantScores]:
    """Walk the trajectory of the parameters; the sums of the halves live in files.

    Args:
        params: ``stability`` is read.
        theta_s: the source, where the path starts.
        probe: its gradients.
        scratch: folder for the sums.

    Returns:
        The four variants in turn.
    """
    knobs = params.stability
    return trajectory_scores(
        theta_s,
        probe.gradients,
        steps=knobs.K,
        eta=knobs.eta,
        beta=knobs.beta,
        ball=knobs.ball,
        perturb_1d=knobs.perturb_1d,
        statistic=knobs.score_stat,
        allocate=lambda like: zeros_in_files(like, scratch),
    )


def _tell(source: str, statistic: str, medians: dict[str, float], objective: Objective) -> None:
    images = len(objective.images)
    say(
        f"stability {source}: {objective.spent} forward-equivalents "
        f"({objective.spent / images:.0f} per image)"
    )
    remedy = "raise slices.score" if statistic == "rms" else "set stability.score_stat to rms"
    for variant, median in medians.items():
        if median < RELIABLE:
            say(
                f"warning: {source}/{variant}: median split-half reliability {median:.2f} is below "
                f"{RELIABLE}: the score ({statistic}) is mostly noise, {remedy}"
            )


@dataclass(frozen=True)
class Point:
    """One point of the trajectory, with the images and weights that its gradients are taken of."""

    params: Params
    objective: Objective
    theta: Tensors
    pixels: Tensor
    weights: Tensor
    done: Callable[[], None]

    def micro(self, half: int, weighted: bool) -> Iterator[tuple[int, Tensors]]:
        """Yield the gradients of one half of the slice, micro-batch by micro-batch.

        Args:
            half: 0 for the images at even places, 1 for the others: both are as class-balanced as
                the slice is.
            weighted: whether by PCI.

        Yields:
            Number of images, and the gradients of their mean cross-entropy.
        """
        knobs = self.params.stability
        yield from self.objective.micro_gradients(
            self.theta,
            self.pixels,
            self.weights if weighted else None,
            torch.arange(half, len(self.pixels), 2),
            micro_size(knobs.score_stat, knobs.microbatch, knobs.batch_size),
        )
        if half and not weighted:  # what the trajectory asks for last
            self.done()


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

    def gradients(self, step: int, theta: Tensors) -> "Point":
        """Attack and weigh the images at a point of the trajectory.

        Args:
            step: number of the trajectory's step.
            theta: its point.

        Returns:
            The gradients there.
        """
        pixels = self._inputs(step, theta)
        weights = self._weights(step, theta, pixels)
        done = partial(self.on_step, f"point {step + 1} of the trajectory")
        return Point(self.params, self.objective, theta, pixels, weights, done)

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
            self.attacked = self.objective.attacked(
                theta, attack_budget(self.params, "calibration"), seed
            )
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
