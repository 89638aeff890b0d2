"""Put a run's plan together: every stage of the DAG with its passes, bytes and time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pistole.errors import UserError
from pistole.lineage.dag import Stage, load_under
from pistole.params import Params
from pistole.plan.disk import Disk, disk_of, listed, room
from pistole.plan.missing import missing
from pistole.plan.rates import Rate, calibrate
from pistole.plan.stages import MEASURED, settings_tried, works_of
from pistole.plan.tasks import About, read_tasks
from pistole.plan.tower import Tower, read_tower
from pistole.plan.work import Works, flops, forward_equivalents, images_forward
from pistole.stages.gallery import shown_models
from pistole.stages.sources import source_of

GIB = 2**30
LARGE = 8 * GIB  # of images in memory, that is worth a note


@dataclass(frozen=True)
class Row:
    """One stage.

    Attributes:
        name: DVC's name of it.
        items: what it goes over, in words.
        frozen: whether a run leaves it out.
        typical: passes that are expected.
        at_most: passes if no image ever left an attack.
        disk: bytes.
    """

    name: str
    items: str
    frozen: bool
    typical: Works
    at_most: Works
    disk: Disk

    def cost(self, tower: Tower, rate: Rate | None, *, bound: bool) -> dict[str, float | None]:
        """Return the stage's cost.

        Args:
            tower: what the passes go through.
            rate: of the device; None if unknown.
            bound: the upper bound, else what is expected.

        Returns:
            ``images``, ``forward_equivalents``, ``flops`` and ``hours`` (None without a rate).
        """
        works = self.at_most if bound else self.typical
        return {
            "images": images_forward(works),
            "forward_equivalents": forward_equivalents(works),
            "flops": flops(works, tower.flops),
            "hours": None if rate is None else rate.seconds(works, tower) / 3600,
        }


@dataclass(frozen=True)
class Plan:
    """A run's plan.

    Attributes:
        profile: name of the parameters.
        tower: the visual tower.
        rows: the stages, in the order of dvc.yaml.
        rate: of the device; None if unknown.
        missing: what is not there.
        notes: what a reader of the numbers has to know.
    """

    profile: str
    tower: Tower
    rows: list[Row]
    rate: Rate | None
    missing: list[str]
    notes: list[str]

    def total(self, *, bound: bool) -> dict[str, float | None]:
        """Add the costs of all stages that a run does not leave out.

        Args:
            bound: the upper bounds, else what is expected.

        Returns:
            As :meth:`Row.cost`.
        """
        parts = [row.cost(self.tower, self.rate, bound=bound) for row in self.rows]
        return {
            key: None
            if any(part[key] is None for part in parts)
            else sum(p[key] or 0 for p in parts)
            for key in ("images", "forward_equivalents", "flops", "hours")
        }

    def record(self) -> dict[str, Any]:
        """Return the plan as JSON-able values.

        Returns:
            Every stage by itself, the totals, what is missing and the notes.
        """
        tower, rate = self.tower, self.rate
        return {
            "profile": self.profile,
            "tower": {
                "name": tower.name,
                "activation": tower.activation,
                "image_size": tower.image_size,
                "parameters": tower.parameters,
                "flops": tower.flops,
            },
            "rate": None if rate is None else rate.about,
            "stages": [
                {
                    "name": row.name,
                    "items": row.items,
                    "frozen": row.frozen,
                    "typical": row.cost(tower, rate, bound=False),
                    "at_most": row.cost(tower, rate, bound=True),
                    "bytes": row.disk.kept,
                    "bytes_aside": row.disk.aside,
                }
                for row in self.rows
            ],
            "total": {
                "typical": self.total(bound=False),
                "at_most": self.total(bound=True),
                "bytes": sum(row.disk.kept for row in self.rows),
                "bytes_aside": max(row.disk.aside for row in self.rows),
            },
            "missing": self.missing,
            "notes": self.notes,
        }


def make_plan(
    params_file: Path,
    params: Params,
    folder: Path,
    *,
    rate: Rate | None = None,
    clock: Callable[[], float] | None = None,
) -> Plan:
    """Plan a run without its weights, data or results.

    Args:
        params_file: the parameters' file, which the DAG is resolved with.
        params: its values.
        folder: the project's folder.
        rate: of the device.
        clock: measures the rate on the present device, in seconds of this clock.

    Returns:
        The plan.
    """
    tower, tasks = read_tower(params), read_tasks(params)
    dag = folder / "dvc.yaml"
    stages = sorted(load_under(dag, params_file), key=_place(dag))
    rows = [_row(stage, params, tower, tasks) for stage in stages]
    notes = [*_notes(params, tower, tasks)]
    if clock is not None:
        batches = {work.batch for row in rows for work in row.at_most if work.images}
        rate, found = calibrate(params, tower, batches, clock)
        notes += found
    needed = room(row.disk for row in rows)
    return Plan(params.profile, tower, rows, rate, missing(params, needed, folder), notes)


def _place(dag: Path) -> Callable[[Stage], int]:
    """The place of a stage in the file, where the stages stand in an order that can run."""
    with dag.open(encoding="utf-8") as stream:
        names = list(YAML(typ="safe", pure=True).load(stream)["stages"])
    return lambda stage: names.index(stage["name"].partition("@")[0])


def _row(stage: Stage, params: Params, tower: Tower, tasks: dict[str, About]) -> Row:
    name = stage["name"]
    if stage["frozen"]:
        return Row(name, "frozen: not part of a run", True, [], [], Disk())
    classes = {task: about.classes for task, about in tasks.items()}
    prompts = {task: about.prompts for task, about in tasks.items()}
    typical, at_most = (
        works_of(name, params, tower, classes, prompts, bound=bound) for bound in (False, True)
    )
    items = _items(params, *name.split("@"))
    return Row(name, items, False, typical, at_most, disk_of(name, params, tower, classes))


def _items(params: Params, kind: str, item: str = "") -> str:
    """What a stage goes over."""
    tasks, slices = len(params.datasets), params.slices
    curve = params.frontier
    told: dict[str, Callable[[], str]] = {
        "data": lambda: f"{sum(listed(params, item).values())} images",
        "base": lambda: f"{tasks} tasks",
        "finetune": lambda: _training(params, item),
        "stability": lambda: f"{slices.score} images, {params.stability.K} points",
        "prepare": lambda: f"{params.prepare.images} images",
        "select": lambda: f"{settings_tried(params)} settings x {slices.select} images",
        "evaluate": lambda: f"{tasks} tasks x {slices.test} images",
        "transfer": lambda: (
            f"{len(params.models)} models x {tasks} tasks x {slices.test} images"
            if params.attack.evaluate.transfer
            else "off"
        ),
        "frontier": lambda: (
            f"{len(curve.grid)} lambdas x {tasks} tasks x {min(curve.images, slices.test)} images"
        ),
        "gallery": lambda: (
            f"{len(shown_models(params))} models x {tasks} tasks x "
            f"{min(params.report.gallery, slices.test)} images"
        ),
        "theory": lambda: _images_of_check(params, item),
    }
    return told[kind]() if kind in told else ""


def _training(params: Params, source: str) -> str:
    knobs = getattr(params.finetune, source)
    if knobs.checkpoint is not None:
        return "a checkpoint is given"
    return f"{knobs.objective}: {knobs.steps} steps of {knobs.batch_size} images"


def _images_of_check(params: Params, check: str) -> str:
    if check == "linear_frontier":
        return "no model"
    wanted = getattr(getattr(params.theory, check), "samples", params.slices.measure)
    return f"{min(wanted, params.slices.measure)} images"


def _notes(params: Params, tower: Tower, tasks: dict[str, About]) -> Iterable[str]:
    source = source_of(params.data, params.data.finetune)
    side = source.resolution or tower.image_size
    for slice_name, count in listed(params, params.data.finetune).items():
        held = 3 * side**2 * count
        if source.layout != "embedded" and held > LARGE:
            yield (
                f"memory: the slice {slice_name} is held whole, {held / GIB:.0f} GiB for {count} "
                f"images of {side} px"
            )
    for name in ("natural", "robust"):
        knobs = getattr(params.finetune, name)
        if knobs.precision == "bf16" and knobs.checkpoint is None:
            yield f"finetune.{name}: updates in bf16 are counted at the rate of fp32: too long"
    learnt = [need for need in params.prepare.run if need not in MEASURED]
    if learnt:
        yield f"prepare: the steps in which {', '.join(learnt)} learn are not counted"
    unknown = [name for name, about in tasks.items() if about.prompts is None]
    if unknown:
        yield (
            f"classes of {len(unknown)} datasets are not known before they are there: their text "
            "features are left out, and APGD-T counts with all its targets"
        )


def require_one_rate(device_rate: str | None, measure: bool) -> None:
    """Refuse a rate that is both given and measured.

    Args:
        device_rate: as given.
        measure: whether to measure it.

    Raises:
        UserError: both.
    """
    if device_rate is not None and measure:
        raise UserError(f"--device-rate {device_rate} with --calibrate: give one of them")
