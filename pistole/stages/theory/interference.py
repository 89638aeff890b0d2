"""Theory check ``interference``: do the masks shrink interference as Theorem 1 says, and aim?"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pistole.files import load_tensors
from pistole.method.controls import permuted_masks
from pistole.method.masks import MaskSettings, complementary_masks
from pistole.method.merge import merge
from pistole.params import Params
from pistole.progress import counting, track
from pistole.seeds import derive, generator
from pistole.stages.losses import Objective
from pistole.stages.masks import mask_settings
from pistole.stages.merge import chosen_lambda
from pistole.stages.runtime import attack_budget, classifier, device_of
from pistole.stages.slices import read_slice
from pistole.stages.towers import base_state, read_parameters, read_vectors
from pistole.theory import interference_table as table
from pistole.theory.interference_grids import (
    Masked,
    contraction_rows,
    mixed_rows,
    proposition_rows,
    trade_rows,
    under_masks,
)
from pistole.theory.interference_summary import Setting, summarise
from pistole.theory.interference_table import GRIDS, POINTS, Row
from pistole.theory.loss_change import (
    CHANGES,
    displacement,
    inner_product,
    loss_change,
    mean_difference,
    moved,
    own_weight,
    self_displacement,
)
from pistole.theory.selectivity import (
    Aim,
    bootstrap_counts,
    resampled_selectivity,
    selectivity_intervals,
)

Tensors = dict[str, Tensor]
OTHER = {"natural": "robust", "robust": "natural"}  # gradient -> vector that it meets
PERMUTATIONS = 3
BLOCKS = 32  # of images, that resamples are made of
HELD = 2**29  # bytes of resampled gradients at once


@dataclass(frozen=True)
class Ingredients:
    """What points and masks are made from, by source, on the CPU.

    Attributes:
        sources: fine-tuned parameters.
        base: parameters of the base.
        merged: of the merged PISTOLE model.
        taus: task vectors.
        scores: sensitivity of each source's objective.
        masks: the run's mask of each vector, made from the other source's scores.
        lam: weight of the natural vector in the merged model.
    """

    sources: dict[str, Tensors]
    base: Tensors
    merged: Tensors
    taus: dict[str, Tensors]
    scores: dict[str, Tensors]
    masks: dict[str, Tensors]
    lam: float

    def point(self, name: str, gradient: str) -> Tensors:
        """Return the parameters of one of :data:`POINTS`."""
        return {"source": self.sources[gradient], "base": self.base, "merged": self.merged}[name]


def check(params: Params, artifacts: Path) -> tuple[list[Row], Row]:
    """Measure contraction, selectivity and true loss change on the slice ``measure``.

    The natural vector is held against the robust gradient and the other way round. Gradients are
    taken at each source (where the paper evaluates them and where they nearly vanish), at the base
    and at the merged model (docs/method.md A.6, E.1).

    Args:
        params: ``theory.interference``, ``stability``, ``merge.rescale`` and
            ``attack.calibration`` are read.
        artifacts: folder of all artifacts.

    Returns:
        Rows of all grids, and the summary.
    """
    device = device_of(params)
    images = read_slice(artifacts / "data" / params.data.finetune, "measure")
    objective = Objective(
        classifier(artifacts / "base", images.dataset, device), images, params.stability.batch_size
    )
    ours = _read(params, artifacts)
    knobs, setting = params.theory.interference, mask_settings(params)
    every_cap = [mask_settings(params, cap_mode=mode) for mode in knobs.cap_modes]
    rows, own = [], {}
    for gradient in OTHER:
        probe = Probe(params, ours, objective, gradient)
        rows += probe.rows()
        found, own[gradient] = _grids(params, ours, gradient, probe.gradients)
        gism = _scores(artifacts, gradient, "gism")
        rows += found + proposition_rows(gradient, ours.taus[OTHER[gradient]], gism, every_cap)
    rows += mixed_rows(own["robust"], own["natural"], knobs.lambdas, setting)
    rows.sort(key=lambda r: (GRIDS.index(r["grid"]), r["gradient"], POINTS.index(r["point"])))
    about = Setting(len(images), knobs.resamples, params.stability.variant, setting, ours.lam)
    return rows, summarise(rows, about)


def _read(params: Params, artifacts: Path) -> Ingredients:
    base = artifacts / "base"
    vectors = [artifacts / "vectors" / f"{name}.safetensors" for name in OTHER]
    taus = dict(zip(OTHER, read_vectors(*vectors, base), strict=True))
    scores = {name: _scores(artifacts, name, params.stability.variant) for name in OTHER}
    masks = complementary_masks(scores["natural"], scores["robust"], mask_settings(params))
    theta_0, lam = base_state(base)[0], chosen_lambda(params, "pistole", artifacts / "select")
    return Ingredients(
        sources={name: read_parameters(artifacts / "checkpoints" / name, base) for name in OTHER},
        base=theta_0,
        merged=merge(theta_0, *taus.values(), masks, lam=lam, rescale=params.merge.rescale),
        taus=taus,
        scores=scores,
        masks=dict(zip(OTHER, masks, strict=True)),
        lam=lam,
    )


def _scores(artifacts: Path, source: str, variant: str) -> Tensors:
    return load_tensors(artifacts / "stability" / source / f"{variant}.safetensors")[0]


class Probe:
    """The passes through the model for one objective, at all points."""

    def __init__(
        self, params: Params, ours: Ingredients, objective: Objective, gradient: str
    ) -> None:
        """Hold what is measured.

        Args:
            params: validated parameters.
            ours: points, vectors and masks.
            objective: the loss on the measure slice.
            gradient: ``natural`` for clean images, ``robust`` for attacked ones.
        """
        self.params, self.ours, self.objective, self.name = params, ours, objective, gradient
        self.tau, self.mask = (d[OTHER[gradient]] for d in (ours.taus, ours.masks))
        self.settings = mask_settings(params)
        self.seed = derive(params.seed, "theory", "interference")
        self.gradients: list[Tensors] = []
        self.losses: dict[str, Tensor] = {}

    def rows(self) -> list[Row]:
        """Measure intervals and losses; then ``gradients`` has one gradient per point.

        Returns:
            Rows of the grids ``interval`` and ``loss``.
        """
        seeds = (derive(self.seed, "permuted", self.name, draw) for draw in range(PERMUTATIONS))
        shuffled = (permuted_masks(self.mask, seed=seed) for seed in seeds)
        aim, rows = Aim(self.tau, [self.mask, *shuffled]), []
        parts = len(POINTS) * (1 + len(CHANGES)) + 1
        with counting(f"theory interference: {self.name} gradient", parts) as advance:
            for point in POINTS:
                theta = self._on_device(self.ours.point(point, self.name))
                pixels = self._pixels(theta)
                self.losses[point] = self._loss(theta, pixels)
                gradient = self.objective.mean_gradient(theta, pixels)
                self.gradients.append({name: value.cpu() for name, value in gradient.items()})
                rows += self._intervals(point, theta, pixels, aim)
                advance()
                rows += self._changes(point, theta, advance)
            rows += self._own_changes()
            advance()
        return rows

    def _row(self, grid: str, point: str, cells: Row) -> Row:
        return table.row(grid, point, self.name, self.settings, cells)

    def _on_device(self, theta: Tensors) -> Tensors:
        return {name: value.to(self.objective.device) for name, value in theta.items()}

    def _pixels(self, theta: Tensors) -> Tensor:
        """The inputs of the objective; one seed for all points, so that changes are paired."""
        if self.name == "natural":
            return self.objective.clean
        return self.objective.attacked(theta, attack_budget(self.params, "calibration"), self.seed)

    def _loss(self, theta: Tensors, pixels: Tensor) -> Tensor:
        return -self.objective.log_probs(theta, pixels).cpu()

    def _intervals(self, point: str, theta: Tensors, pixels: Tensor, aim: Aim) -> list[Row]:
        # One pass over blocks of images serves many resamples, where weights would take one each.
        size = min(math.ceil(len(pixels) / BLOCKS), self.objective.batch_size)
        order = torch.randperm(len(pixels), generator=generator(self.seed, "blocks"))
        one = sum(value.numel() * value.element_size() for value in self.tau.values())
        again = resampled_selectivity(
            aim,
            lambda: self.objective.micro_gradients(theta, pixels, chosen=order, size=size),
            bootstrap_counts(
                math.ceil(len(pixels) / size),
                self.params.theory.interference.resamples,
                seed=derive(self.seed, "resamples"),
            ),
            max(1, HELD // one),
        )
        whole = aim.selectivity({name: g[None] for name, g in self.gradients[-1].items()})[0]
        found = selectivity_intervals(aim.retention[0].item(), whole, again)
        return [self._row("interval", point, cells) for cells in table.selectivity_cells(found)]

    def _changes(self, point: str, theta: Tensors, advance: Callable[..., None]) -> list[Row]:
        rows, after = [], {}
        for kind in CHANGES:
            v = displacement(kind, self.tau, self.mask)
            there = moved(theta, v)
            after[kind] = self._loss(there, self._pixels(there))
            first = inner_product(self.gradients[-1], v)
            change = loss_change(self.losses[point], after[kind], first)
            rows.append(self._row("loss", point, table.loss_cells(kind, change)))
            advance()
        apart = mean_difference(after["uniform"], after["masked"])
        cells = table.estimate_cells("masked_minus_uniform", apart)
        return [*rows, self._row("loss", point, cells)]

    def _own_changes(self) -> list[Row]:
        """From the source: to what the merge leaves of its own vector, and to the merged model."""
        source, lam = self.ours.sources[self.name], self.ours.lam
        lost = self_displacement(
            self.ours.taus[self.name],
            self.ours.masks[self.name],
            share=own_weight(self.name, lam),
        )
        there = moved(self._on_device(source), lost)
        after = {"self": self._loss(there, self._pixels(there)), "merged": self.losses["merged"]}
        whole = {name: value - source[name] for name, value in self.ours.merged.items()}
        rows = []
        for kind, v in (("self", lost), ("merged", whole)):
            first = inner_product(self.gradients[POINTS.index("source")], v)
            change = loss_change(self.losses["source"], after[kind], first)
            rows.append(self._row("loss", "source", table.loss_cells(kind, change)))
        return rows


def _settings(params: Params) -> dict[str, list[MaskSettings]]:
    """The run's own masks, and the two grids of masks."""
    knobs = params.theory.interference
    return {
        "layer": [mask_settings(params)],
        "kappa": [
            mask_settings(params, kappa=kappa, gamma=gamma)
            for gamma in knobs.gammas
            for kappa in knobs.kappas
        ],
        "cap": [
            mask_settings(params, q=q, cap_mode=mode) for mode in knobs.cap_modes for q in knobs.qs
        ],
    }


def _grids(
    params: Params, ours: Ingredients, gradient: str, gradients: list[Tensors]
) -> tuple[list[Row], Masked]:
    """Rows of all masks, and the contractions under the run's own."""
    other, grids = OTHER[gradient], _settings(params)
    found = iter(
        under_masks(
            gradients,
            ours.taus[other],
            ours.scores[gradient],
            [setting for settings in grids.values() for setting in settings],
            seed=derive(params.seed, "theory", "interference", gradient),
            watch=lambda layers: track(layers, f"theory interference {gradient} masks"),
        )
    )
    masked = {grid: [next(found) for _ in settings] for grid, settings in grids.items()}
    rows = [
        row
        for grid, settings in grids.items()
        for row in contraction_rows(gradient, grid, settings, masked[grid])
    ]
    (own,) = masked["layer"]
    rows += trade_rows(
        gradient,
        gradients,
        [sides[0]["all"].signed for sides in own],
        (ours.taus[gradient], ours.masks[gradient]),
        params.theory.interference.lambdas,
        mask_settings(params),
    )
    return rows, own
