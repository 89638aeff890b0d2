"""Passes of each theory check, from the parameters and the constants of its module."""

import math
from collections.abc import Callable

from pistole.params import Params
from pistole.plan.attacks import pgd
from pistole.plan.tower import Tower
from pistole.plan.work import FORWARD, GRAPH, IMAGE, PRODUCT, SECOND, WEIGHT, Work, Works, times
from pistole.stages.runtime import attack_budget
from pistole.stages.theory import (
    agreement,
    conflict_map,
    interference,
    merge_path,
    pci_trace,
)
from pistole.theory.blocks import BLOCKS
from pistole.theory.depth import cut_points
from pistole.theory.heads import POINTS as MAPPED
from pistole.theory.interference_table import POINTS
from pistole.theory.loss_change import CHANGES
from pistole.theory.path_summary import LOSSES


def works_of(check: str, params: Params, tower: Tower) -> Works:
    """Count one check.

    Args:
        check: a key of ``theory``.
        params: of the run.
        tower: the visual tower: its size, heads and depth.

    Returns:
        The passes; none for ``linear_frontier``, which runs no model.
    """
    counted: dict[str, Callable[[], Works]] = {
        "interference": lambda: of_interference(params, tower.parameters),
        "pci_trace": lambda: of_pci_trace(params),
        "merge_path": lambda: of_merge_path(params),
        "agreement": lambda: of_agreement(params),
        "linear_frontier": list,
        "conflict_map": lambda: of_conflict_map(params, tower.heads, tower.depth),
    }
    return counted[check]()


def _calibration(params: Params, images: int) -> Works:
    batch = min(params.stability.batch_size, images)
    return pgd(images, attack_budget(params, "calibration"), batch)


def _blocks(images: int, most: int) -> tuple[int, int]:
    """Number and size of the blocks that gradients are taken of (docs/method.md E.4)."""
    count = min(most, images) // 2 * 2
    return count, images // count


def _block_gradients(params: Params, images: int, most: int) -> Works:
    count, size = _blocks(images, most)
    return [Work(WEIGHT, count * size, min(size, params.stability.batch_size))]


def of_interference(params: Params, parameters: int) -> Works:
    """Count the check ``interference`` (docs/method.md E.1).

    Args:
        params: ``slices.measure``, ``theory.interference``, ``stability`` and ``attack`` are read.
        parameters: of the tower: memory for resampled gradients sets the number of sweeps.

    Returns:
        Losses and gradients at three points, resampled gradients in sweeps, and losses at the ends
        of displacements, all attacked anew for the robust objective.
    """
    images, knobs = params.slices.measure, params.theory.interference
    batch = min(params.stability.batch_size, images)
    held = max(1, interference.HELD // (4 * parameters))
    sweeps = math.ceil(knobs.resamples / held)
    losses = len(POINTS) * (1 + len(CHANGES)) + 1  # the last: what the merge leaves of a vector
    size = min(math.ceil(images / interference.BLOCKS), params.stability.batch_size)
    one = [
        Work(FORWARD, losses * images, batch),
        Work(WEIGHT, len(POINTS) * images, batch),
        Work(WEIGHT, len(POINTS) * sweeps * images, size),
    ]
    return [*times(len(interference.OTHER), one), *times(losses, _calibration(params, images))]


def of_pci_trace(params: Params) -> Works:
    """Count the check ``pci_trace`` (docs/method.md E.2).

    Args:
        params: ``slices.measure``, ``theory.pci_trace``, ``stability`` and ``attack`` are read.

    Returns:
        Per model and inputs: unperturbed values, PCI at every radius, probes, the form along the
        first pair, and the two identities on a few images; per model one attack.
    """
    knobs = params.theory.pci_trace
    images = min(knobs.samples, params.slices.measure)
    batch, few = min(params.stability.batch_size, images), min(pci_trace.FEW, images)
    probes = pci_trace.IDENTITY_PROBES
    group = [
        Work(FORWARD, images * (1 + 2 * len(knobs.etas) * knobs.pairs), batch),
        Work(SECOND, images * (knobs.probes + 1), batch),
        Work(FORWARD, few * (1 + 1 + 1 + 2 * knobs.pairs), few),  # p, logits, PCI of all classes
        Work(SECOND, few * 2 * probes, few),  # of p and of -log p
    ]
    models = len(pci_trace.MODELS)
    attack = times(models, _calibration(params, images))
    return [*times(models * len(pci_trace.INPUTS), group), *attack]


def of_merge_path(params: Params) -> Works:
    """Count the check ``merge_path`` (docs/method.md E.3).

    Args:
        params: ``slices.measure``, ``theory.merge_path``, ``stability`` and ``attack`` are read.

    Returns:
        Per method, lambda and loss: the loss, traces and sharpness of the parts of the images, and
        Lanczos' products, whose graph is made anew for each product if it takes several batches
        (an upper bound where Lanczos' recurrence ends early); per method and lambda one attack.
    """
    knobs = params.theory.merge_path
    images = min(knobs.samples, params.slices.measure)
    batch = min(params.stability.batch_size, images)
    part = math.ceil(images / min(merge_path.PARTS, images))
    graphs = 1 if batch == images else knobs.iterations
    one = [
        Work(FORWARD, images, batch),
        Work(GRAPH, images, part),
        Work(PRODUCT, images * knobs.probes, part),
        Work(FORWARD, images * (1 + 2 * knobs.pairs), part),
        Work(GRAPH, images * graphs, batch),
        Work(PRODUCT, images * knobs.iterations, batch),
    ]
    points = len(knobs.methods) * len(knobs.lambdas)
    attack = times(points, _calibration(params, images))
    return [*times(points * len(LOSSES), one), *attack]


def of_agreement(params: Params) -> Works:
    """Count the check ``agreement`` (docs/method.md E.4).

    Args:
        params: ``slices.measure``, ``theory.agreement`` and ``stability`` are read.

    Returns:
        Per model the blocks' gradients on clean images, and an attack and the blocks' gradients at
        every radius above 0.
    """
    images = params.slices.measure
    radii = sum(eps > 0 for eps in params.theory.agreement.radii)
    batch = min(params.stability.batch_size, images)
    gradients = _block_gradients(params, images, BLOCKS)
    attacks = [Work(IMAGE, radii * images * agreement.STEPS, batch)]
    return times(len(agreement.MODELS), [*times(1 + radii, gradients), *attacks])


def of_conflict_map(params: Params, heads: int, depth: int) -> Works:
    """Count the check ``conflict_map`` (docs/method.md E.6).

    Args:
        params: ``slices.measure``, ``theory.conflict_map``, ``stability`` and ``attack`` are read.
        heads: attention heads of the tower.
        depth: numbered blocks of the tower.

    Returns:
        Gradients, an attack and the model without each head at both models; each head from each of
        three models; a second attack; and the robust vector in the first and in the last blocks.
    """
    knobs = params.theory.conflict_map
    images = min(knobs.samples, params.slices.measure)
    batch = min(params.stability.batch_size, images)
    gradients = _block_gradients(params, images, max(BLOCKS, knobs.repeats + knobs.repeats % 2))
    attack = _calibration(params, images)
    without = [Work(FORWARD, 2 * (1 + heads) * images if heads else 0, batch)]
    answers = [Work(FORWARD, 2 * images, batch)]
    cuts = cut_points(depth, conflict_map.CUTS)
    prefixes = sum(2 if 0 < count < depth else 1 for count in cuts)
    other = [*gradients, *attack, *without] if heads else []
    return [
        *times(len(MAPPED), [*times(2, gradients), *attack, *without]),
        *times(1 + len(conflict_map.SWAPS) * heads, answers),
        *other,
        *times(prefixes, [*attack, *answers]),
    ]
