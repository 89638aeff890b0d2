"""Command ``data check``: whether a dataset is what the registry says."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pistole.data.dataset import interleaved
from pistole.data.images import ImageSplit
from pistole.data.listing import require_few_corrupt
from pistole.data.names import first_difference
from pistole.data.registry import registry
from pistole.data.sheet import COLUMNS, ROWS, contact_sheet
from pistole.data.source import LAYOUTS, Source
from pistole.data.tasks import ImageTask, open_task
from pistole.errors import UserError, require_choice
from pistole.files import atomic_file
from pistole.params import load_params
from pistole.progress import track
from pistole.stages.sources import source_of

STORED = tuple(layout for layout in LAYOUTS if layout != "embedded")


def find(params_file: Path, dataset: str, layout: str | None, root: str | None) -> Source:
    """Tell where the dataset to check is.

    Args:
        params_file: read unless layout and root are given.
        dataset: its name.
        layout: its form.
        root: its folder or URL.

    Returns:
        The source.

    Raises:
        UserError: only one of layout and root is given, or the dataset is drawn, not stored.
    """
    if (layout is None) != (root is None):
        raise UserError("--layout and --root belong together: give both or neither")
    if layout is not None and root is not None:
        require_choice("--layout", layout, STORED)
        return Source(dataset, layout, root)
    source = source_of(load_params(params_file).data, dataset)
    if source.layout == "embedded":
        raise UserError(
            f"dataset {dataset!r} is drawn, not stored (data.layout embedded): choose "
            "another, or give --layout and --root"
        )
    return source


def run(source: Source, sheet: Path, *, decode: int, subset: bool, as_json: bool) -> None:
    """Check the test split of a dataset.

    Args:
        source: the dataset.
        sheet: the contact sheet to write.
        decode: number of images to decode, stratified by class.
        subset: fewer images than the registry's are no problem.
        as_json: print JSON instead of a table.

    Raises:
        UserError: counts differ from the registry's, or more than 0.1 % of the images that were
            decoded are corrupt; told after the table.
    """
    task = open_task(source)
    split = task.split("test")
    order = interleaved(split.labels, ("check", source.name))[:decode]
    looked = track(order, f"{source.name}/test", len(order))
    corrupt = [i for i in looked if not split.is_readable(i)]
    found = _findings(source, task, split)
    found |= {
        "decoded": len(order),
        "corrupt": [split.ids[i] for i in corrupt],
        "sheet": str(sheet),
        "problems": _problems(found, subset=subset),
    }
    good = [i for i in order if i not in set(corrupt)][: COLUMNS * ROWS]
    pictures = [(split.picture(i), task.classnames[split.labels[i]]) for i in good]
    found["pixels"] = sorted({f"{one.width}x{one.height}" for one, _ in pictures})
    with atomic_file(sheet) as part:
        contact_sheet(pictures).save(part, "PNG")
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        Console(highlight=False, markup=False).print(_table(found))
    require_few_corrupt(split, corrupt, len(order), f"{source.name}/test")
    if found["problems"]:
        raise UserError(f"{source.name}: " + "; ".join(found["problems"]))


def _findings(source: Source, task: ImageTask, split: ImageSplit) -> dict[str, Any]:
    per_class = Counter(split.labels)
    counts = [per_class[label] for label in range(len(task.classnames))]
    found: dict[str, Any] = {
        "dataset": source.name,
        "layout": source.layout,
        "root": source.root,
        "images": len(split.ids),
        "classes": len(task.classnames),
        "images_per_class": [min(counts), max(counts)],
        "templates": len(task.templates),
        "registry": None,
    }
    known = registry().get(source.name)
    if known is None:
        return found
    entry = known.torchvision if source.layout == "torchvision" else None
    lists = known.class_lists()
    one = next((x for x in lists if len(x.names) == len(task.classnames)), lists[0])
    odd = first_difference(one.names, task.classnames)
    found["registry"] = {
        "title": known.title,
        "images": entry.images if entry else known.test,
        "classes": len(one.names),
        "resolution": known.resolution,
        "templates": known.template_count,
        "first_other_name": None if odd is None else _other_name(odd, task.classnames, one.names),
    }
    return found


def _other_name(label: int, have: Sequence[str], want: Sequence[str]) -> str:
    here, there = (
        repr(names[label]) if label < len(names) else "missing" for names in (have, want)
    )
    return f"class {label} is {here}, there {there}"


def _problems(found: dict[str, Any], *, subset: bool) -> list[str]:
    known, problems = found["registry"], []
    for what in ("images", "classes") if known else ():
        have, want = found[what], known[what]
        if have > want or (have < want and not subset):
            remedy = "mend the data" + ("" if have > want else ", or pass --subset if it is one")
            problems.append(f"{have} {what} but the registry says {want}: {remedy}")
    if found["images_per_class"][0] == 0:
        problems.append("a class has no test image: mend the data or its class list")
    return problems


def _table(found: dict[str, Any]) -> Table:
    known = found["registry"] or {}
    least, most = found["images_per_class"]
    odd = known.get("first_other_name")
    names = "as in the registry" if odd is None else f"others: {odd}"
    corrupt = found["corrupt"]
    shown = ", ".join(found["pixels"][:3]) + (", ..." if len(found["pixels"]) > 3 else "")
    rows = [
        ("images", found["images"], known.get("images")),
        ("classes", found["classes"], known.get("classes")),
        ("images per class", f"{least}" if least == most else f"{least} to {most}", None),
        ("class names", names if known else "not registered", None),
        ("templates", found["templates"], known.get("templates")),
        ("pixels", shown, known.get("resolution")),
        ("decoded", found["decoded"], None),
        ("corrupt", len(corrupt) if corrupt else "none", None),
        ("contact sheet", found["sheet"], None),
    ]
    table = Table(f"{found['dataset']}/test", "found", "registry", box=None)
    for what, have, want in rows:
        table.add_row(what, str(have), "" if want is None else str(want))
    return table
