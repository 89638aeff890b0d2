"""Theory check ``conflict_map``: do few heads carry the conflict, and do they matter?"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pistole.errors import UserError
from pistole.models.zeroshot import functional_logits
from pistole.params import Params
from pistole.progress import counting
from pistole.seeds import derive
from pistole.stages.losses import Objective
from pistole.stages.runtime import attack_budget, classifier, device_of, tower
from pistole.stages.scratch import copies_in_files
from pistole.stages.slices import read_slice
from pistole.stages.towers import read_masks, read_vectors
from pistole.theory.ablation import Answers, Head, answers, functional_sensitivity, head_swaps
from pistole.theory.agreement import Grams, agreement
from pistole.theory.blocks import BLOCKS, block_gradients, block_positions, gram, half_samples
from pistole.theory.concentration import HeadMap, head_map
from pistole.theory.conflict import cosine, optimisation_conflict
from pistole.theory.conflict_summary import HEADLINE, Found, Halfway, summarise
from pistole.theory.depth import blocks_by_depth, cut_points, moved_in
from pistole.theory.heads import POINTS, attentions, head_slice

Tensors = dict[str, Tensor]
Row = dict[str, Any]
SWAPS = ("natural", "robust", "base")
HALVES = 1000
CUTS = 3  # depths at which prefixes end, besides both ends of the tower
EMPTY = dict.fromkeys(
    [*(f"fs_{p}" for p in POINTS), *(f"score_{p}" for p in POINTS)]
    + [f"{kind}_{name}" for kind in ("loss", "sum") for name in (*SWAPS, "impact")]
)


class Lab:
    """The models, the images and the attack, read once."""

    def __init__(self, params: Params, artifacts: Path, scratch: Path) -> None:
        """Read them.

        Args:
            params: as for :func:`check`.
            artifacts: folder of all artifacts.
            scratch: folder for the blocks' gradients, which are too many for memory.

        Raises:
            UserError: more parts of the images are asked for than there are blocks of them.
        """
        knobs, base = params.theory.conflict_map, artifacts / "base"
        self.params, self.device, self.scratch = params, device_of(params), scratch
        images = read_slice(artifacts / "data" / params.data.finetune, "measure", knobs.samples)
        model = classifier(base, images.dataset, self.device)
        self.objective = Objective(model, images, params.stability.batch_size)
        places = {"base": base, "merged": artifacts / "merged/pistole"}
        places |= {name: artifacts / "checkpoints" / name for name in ("natural", "robust")}
        self.towers = {name: tower(place, base, self.device) for name, place in places.items()}
        vectors = [artifacts / f"vectors/{name}.safetensors" for name in ("natural", "robust")]
        self.taus = read_vectors(*vectors, base)
        self.masks = read_masks(artifacts / "masks", params.stability.variant)
        self.blocks = block_positions(len(images), max(BLOCKS, knobs.repeats + knobs.repeats % 2))
        if knobs.repeats > len(self.blocks):
            raise UserError(
                f"theory.conflict_map.repeats is {knobs.repeats}, but {len(images)} images make "
                f"{len(self.blocks)} blocks: lower it"
            )
        self.heads: list[Head] = [
            (layer, number) for layer in attentions(model.visual) for number in range(layer.heads)
        ]
        self.depth = blocks_by_depth(name for name, _ in model.visual.named_parameters())

    def attacked(self, theta: Tensors, *seed: str) -> Tensor:
        """Attack all images at a point with the calibration attack."""
        drawn = derive(self.params.seed, "theory", "conflict_map", *seed)
        return self.objective.attacked(theta, attack_budget(self.params, "calibration"), drawn)

    @torch.no_grad()
    def log_probs(self, theta: Tensors, pixels: Tensor) -> Tensor:
        """Return log p of all classes, [n, c], on the CPU."""
        parts = [
            functional_logits(self.objective.model, theta, pixels[batch].to(self.device))
            for batch in self.objective.batches()
        ]
        return torch.cat(parts).log_softmax(1).cpu()

    def answers(self, theta: Tensors, adversarial: Tensor) -> Answers:
        """Ask a model about the clean and the given adversarial images."""
        said = [self.log_probs(theta, x) for x in (self.objective.clean, adversarial)]
        return answers(*said, self.objective.images.labels)

    def gradients(self, theta: Tensors, pixels: Tensor) -> list[Tensors]:
        """Take the gradient on every block of images."""
        mean = self.objective.mean_gradient
        keep = partial(copies_in_files, folder=self.scratch)
        return block_gradients(lambda b: mean(theta, pixels, chosen=b), self.blocks, keep)

    def sensitivity(self, theta: Tensors, adversarial: Tensor) -> Tensor:
        """Return FS per head and block, over clean and adversarial images."""
        both = [
            functional_sensitivity(lambda t, x=x: self.log_probs(t, x), theta, self.heads)
            for x in (self.objective.clean, adversarial)
        ]
        mean = (both[0] + both[1]) / 2
        return torch.stack([mean[:, block].mean(1) for block in self.blocks], dim=1)


class Point:
    """What is measured at one model."""

    def __init__(self, lab: Lab, name: str) -> None:
        """Attack, differentiate and leave heads out.

        Args:
            lab: models and images.
            name: the model.
        """
        self.lab, self.theta = lab, lab.towers[name]
        self.natural = lab.gradients(self.theta, lab.objective.clean)
        self.adversarial = lab.attacked(self.theta, name)
        self.robust = lab.gradients(self.theta, self.adversarial)
        self.sensitivity = lab.sensitivity(self.theta, self.adversarial) if lab.heads else None
        self.tensors = {
            name: _grams(self.natural, self.robust, lambda g, n=name: g[n]) for name in self.theta
        }
        self.by_head = self.head_grams(self.robust)

    def head_grams(self, robust: list[Tensors]) -> list[Grams]:
        """Return the dot products of natural and given robust gradients, per head."""
        return [
            _grams(self.natural, robust, lambda g, a=a, k=k: head_slice(g, a, k))
            for a, k in self.lab.heads
        ]

    def map(self, chosen: Tensor) -> HeadMap:
        """Make the head map from some of the blocks."""
        assert self.sensitivity is not None  # asked only of towers with heads
        return head_map(self.by_head, self.sensitivity, chosen)

    def conflict(self, names: list[str]) -> tuple[float, float, float]:
        """Return OC and both squared gradient norms of some tensors together."""
        grams = [self.tensors[name] for name in names]
        total = grams[0]
        for part in grams[1:]:
            total = total + part
        everything = torch.ones(1, len(self.lab.blocks), dtype=torch.bool)
        oc = optimisation_conflict(agreement(total, everything).cosine)
        return oc.item(), total.clean.mean().item(), total.attacked.mean().item()


def _grams(
    natural: list[Tensors], robust: list[Tensors], pick: Callable[[Tensors], Tensor]
) -> Grams:
    n, r = (torch.stack([pick(part) for part in side]) for side in (natural, robust))
    return Grams(gram(n, n), gram(n, r), gram(r, r))


def check(params: Params, artifacts: Path) -> tuple[list[Row], Row]:
    """Map optimisation conflict and sensitivity over heads, and merge with one head replaced.

    Args:
        params: ``theory.conflict_map``, ``attack`` and ``stability`` are read.
        artifacts: folder of all artifacts.

    Returns:
        Rows per head, block and tensor, and the summary.
    """
    with tempfile.TemporaryDirectory() as scratch:
        return _measure(Lab(params, artifacts, Path(scratch)))


def _measure(lab: Lab) -> tuple[list[Row], Row]:
    params, cuts = lab.params, cut_points(len(lab.depth), CUTS)
    with counting("theory conflict_map", len(POINTS) + 2 + 2 * len(cuts) - 2) as advance:
        points = {}
        for name in POINTS:
            points[name] = Point(lab, name)
            advance()
        swaps = _swaps(lab, points["merged"])
        advance()
        other = _other_attack(lab, points[HEADLINE]) if lab.heads else None
        advance()
        prefix, halfway = _prefixes(lab, cuts, advance)
    rows = [*_head_rows(lab, points, swaps), *_layer_rows(lab, points)]
    found = Found(
        images=len(lab.objective.images),
        heads=rows[: len(lab.heads)],
        maps={name: _maps(params, point) for name, point in points.items()} if lab.heads else {},
        other_attack=other,
        prefix=prefix,
        halfway=halfway,
    )
    return rows, summarise(found, params.theory.conflict_map.top, params.seed)


def _swaps(lab: Lab, merged: Point) -> list[dict[str, float]]:
    # The images that were attacked at the merged model serve all its variants.
    return head_swaps(
        lambda theta: lab.answers(theta, merged.adversarial),
        lab.towers["merged"],
        {name: lab.towers[name] for name in SWAPS},
        lab.heads,
    )


def _other_attack(lab: Lab, point: Point) -> HeadMap:
    """The map of all images under the same attack from other starts."""
    adversarial = lab.attacked(point.theta, HEADLINE, "again")
    grams = point.head_grams(lab.gradients(point.theta, adversarial))
    everything = torch.ones(1, len(lab.blocks), dtype=torch.bool)
    return head_map(grams, lab.sensitivity(point.theta, adversarial), everything)


def _maps(params: Params, point: Point) -> dict[str, HeadMap]:
    """The map on all images, on random halves, and on disjoint parts."""
    count, parts = len(point.lab.blocks), params.theory.conflict_map.repeats
    seed = derive(params.seed, "theory", "conflict_map")
    number = torch.arange(count) % parts
    return {
        "whole": point.map(torch.ones(1, count, dtype=torch.bool)),
        "halves": point.map(half_samples(count, HALVES, seed)),
        "parts": point.map(number[None] == torch.arange(parts)[:, None]),
    }


def _head_rows(lab: Lab, points: dict[str, Point], swaps: list[dict[str, float]]) -> list[Row]:
    if not lab.heads:
        return []
    everything = torch.ones(1, len(lab.blocks), dtype=torch.bool)
    maps = {name: point.map(everything) for name, point in points.items()}
    total = _total(lab, points[HEADLINE])
    rows = []
    for i, (layer, number) in enumerate(lab.heads):
        grams = points[HEADLINE].by_head[i]
        squares = grams.clean.mean().item(), grams.attacked.mean().item()
        taus = [head_slice(tau, layer, number) for tau in lab.taus]
        masks = [head_slice(mask, layer, number) for mask in lab.masks]
        conflicts = {name: maps[name].conflict[0, i].item() for name in POINTS}
        row = {"level": "head", "layer": layer.layer, "head": number}
        row |= _columns(conflicts, squares, taus, masks, total) | EMPTY
        for name in POINTS:
            row[f"fs_{name}"] = maps[name].sensitivity[0, i].item()
            row[f"score_{name}"] = maps[name].score[0, i].item()
        rows.append(row | swaps[i])
    return rows


def _layer_rows(lab: Lab, points: dict[str, Point]) -> list[Row]:
    total = _total(lab, points[HEADLINE])
    layers = [("block", block, names) for block, names in lab.depth.items()]
    layers += [("tensor", name, [name]) for names in lab.depth.values() for name in names]
    rows = []
    for level, layer, names in layers:
        found = {name: point.conflict(names) for name, point in points.items()}
        pairs = [
            [torch.cat([v[n].flatten() for n in names]) for v in vs] for vs in (lab.taus, lab.masks)
        ]
        conflicts = {name: found[name][0] for name in POINTS}
        row = {"level": level, "layer": layer, "head": None}
        rows.append(row | _columns(conflicts, found[HEADLINE][1:], *pairs, total) | EMPTY)
    return rows


def _total(lab: Lab, point: Point) -> list[float]:
    """Squared norms of both vectors and both gradients over the whole tower."""
    gradients = point.conflict(list(point.theta))[1:]
    return [sum(v.double().square().sum().item() for v in tau.values()) for tau in lab.taus] + [
        *gradients
    ]


def _columns(
    conflicts: dict[str, float],
    gradients: tuple[float, float],
    taus: list[Tensor],
    masks: list[Tensor],
    total: list[float],
) -> Row:
    tc = -cosine(*taus)
    squares = [tau.double().square().sum().item() for tau in taus] + [*gradients]
    shares = [part / whole if whole else None for part, whole in zip(squares, total, strict=True)]
    names = ("tau_nat", "tau_rob", "grad_nat", "grad_rob")
    return {
        "size": taus[0].numel(),
        **{f"oc_{name}": value for name, value in conflicts.items()},
        "tc": tc if tc == tc else None,
        **{f"share_{name}": share for name, share in zip(names, shares, strict=True)},
        "mask_nat": masks[0].double().mean().item(),
        "mask_rob": masks[1].double().mean().item(),
    }


def _prefixes(lab: Lab, cuts: list[int], advance: Callable[..., None]) -> tuple[list[Row], Halfway]:
    """Answers of base + tau_rob in the first or in the last blocks only, each attacked itself."""
    blocks = list(lab.depth.values())
    tau = {name: value.to(lab.device) for name, value in lab.taus[1].items()}
    rows, losses = [], {}
    for count in cuts:
        # Nothing or everything moved is the same from both ends.
        for end in ("first", "last") if 0 < count < len(blocks) else ("first",):
            chosen = blocks[:count] if end == "first" else blocks[len(blocks) - count :]
            theta = moved_in(lab.towers["base"], tau, [n for names in chosen for n in names])
            found = lab.answers(theta, lab.attacked(theta, "prefix"))
            losses[count, end] = found.robust_loss
            rows.append({"end": end, "blocks": count, "of": len(blocks), **found.means()})
            advance()
    middle = cuts[len(cuts) // 2]
    first = losses[middle, "first"]
    return rows, Halfway(middle, first, losses.get((middle, "last"), first))
