"""Bytes that each stage leaves behind, and what it needs aside while it works."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pistole.data.world.draw import SIZE
from pistole.lineage.dag import load_under
from pistole.method.trajectory import VARIANTS
from pistole.params import SOURCES, Params
from pistole.plan.sizes import Sizes, read_sizes
from pistole.plan.tasks import read_tasks
from pistole.stages.data import TRAINING_SLICES
from pistole.stages.masks import CONTROLS
from pistole.stages.sources import source_of
from pistole.theory.blocks import BLOCKS
from pistole.theory.heads import POINTS

FP32, FP64 = 4, 8
ENTRY = 120  # bytes that one listed image takes in index.json: its id, label and digest
RESUMED = 3  # parameters and both moments of AdamW, in .pistole/resume while training
ACCUMULATED = 6  # sums of both halves and of the first one, of two accumulators


@dataclass(frozen=True)
class Disk:
    """Bytes on disk.

    Attributes:
        kept: outputs; tables, curves and figures, a few megabytes in all, are left out.
        aside: files that are gone when the stage is finished.
    """

    kept: int = 0
    aside: int = 0


def room(disks: Iterable[Disk]) -> int:
    """Add up what a run needs.

    Args:
        disks: of its stages, which run one after the other.

    Returns:
        Bytes: all that is kept, and the most that a stage has aside.
    """
    found = list(disks)
    return sum(disk.kept for disk in found) + max(disk.aside for disk in found)


def needed(params_file: Path, params: Params, folder: Path) -> int:
    """Count the bytes that a run needs, without the rest of its plan.

    Args:
        params_file: the parameters' file, which the DAG is resolved with.
        params: its values.
        folder: the project's folder.

    Returns:
        The bytes.
    """
    sizes = read_sizes(params)
    classes = {name: about.classes for name, about in read_tasks(params).items()}
    stages = load_under(folder / "dvc.yaml", params_file)
    run = (stage["name"] for stage in stages if not stage["frozen"])
    return room(disk_of(name, params, sizes, classes) for name in run)


def listed(params: Params, dataset: str) -> dict[str, int]:
    """Say how many images of a dataset each slice has.

    Args:
        params: ``slices`` and ``data.finetune`` are read.
        dataset: its name.

    Returns:
        slice -> images.
    """
    names = ("test", *TRAINING_SLICES) if dataset == params.data.finetune else ("test",)
    return {name: getattr(params.slices, name) for name in names}


def disk_of(stage: str, params: Params, tower: Sizes, classes: dict[str, int | None]) -> Disk:
    """Count the bytes of one stage of the DAG.

    Args:
        stage: DVC's name of it.
        params: of the run.
        tower: the visual tower.
        classes: of every dataset; unknown ones are left out.

    Returns:
        The bytes.
    """
    kind, _, item = stage.partition("@")
    vector = FP32 * tower.parameters
    state = vector + FP32 * tower.buffers
    if kind == "data":
        images = sum(listed(params, item).values())
        pixels = 3 * SIZE**2 if source_of(params.data, item).layout == "embedded" else 0
        return Disk(images * (ENTRY + pixels))
    if kind == "finetune":
        trained = getattr(params.finetune, item).checkpoint is None
        return Disk(state, RESUMED * vector if trained else 0)
    if kind == "theory":
        return Disk(0, vector * _gradients(item, params))
    features = FP32 * tower.embedding * sum(count or 0 for count in classes.values())
    return {
        "base": Disk(state + features),
        "vectors": Disk(vector),
        "stability": Disk(len(VARIANTS) * vector, ACCUMULATED * vector),
        "prepare": Disk(_statistics(item, tower)),
        "masks": Disk((len(VARIANTS) + len(CONTROLS)) * len(SOURCES) * vector),
        "merge": Disk(state),
        "evaluate": _adversarial(params, tower),
    }.get(kind, Disk())


def _adversarial(params: Params, tower: Sizes) -> Disk:
    """Images that fool a model, if all do, and as many that a killed evaluation goes on from."""
    if not params.attack.evaluate.transfer:
        return Disk()
    sides = [_side(params, name, tower) for name in params.datasets]
    images = FP32 * params.slices.test * sum(3 * side**2 for side in sides)
    return Disk(images, images)


def _side(params: Params, dataset: str, tower: Sizes) -> int:
    source = source_of(params.data, dataset)
    if params.attack.evaluate.domain == "resized":
        return tower.image_size
    if source.layout == "embedded":
        return SIZE
    return source.resolution or tower.image_size  # as stored is not known before it is there


def _statistics(need: str, tower: Sizes) -> int:
    """Bytes of what a preparation measures; of other needs they are those of some vectors."""
    vector = len(SOURCES) * FP32 * tower.parameters
    measured = {
        "fisher": vector,
        "led": 2 * vector,  # of the base too
        "regmean": len(SOURCES) * FP64 * tower.grams,
        "obm": 0,  # numbers per input, megabytes
    }
    return measured.get(need, vector)


def _gradients(check: str, params: Params) -> int:
    """Gradients of blocks of images that a check keeps in files at once."""
    if check == "agreement":
        return 2 * min(BLOCKS, params.slices.measure)
    if check == "conflict_map":
        repeats = params.theory.conflict_map.repeats
        blocks = max(BLOCKS, repeats + repeats % 2)
        images = min(params.theory.conflict_map.samples, params.slices.measure)
        return (2 * len(POINTS) + 1) * min(blocks, images)
    return 0
