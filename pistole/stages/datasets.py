"""Command ``data list``: the registered datasets."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from pistole.data.registry import SUITES, Registered, registry
from pistole.errors import require_choice


def show_registry(suite: str | None, *, as_json: bool) -> None:
    """Print the registered datasets.

    Args:
        suite: only those of one table; None: all.
        as_json: print JSON, with the names of CLIP_benchmark and torchvision.
    """
    if suite is not None:
        require_choice("--suite", suite, SUITES)
    rows = [row for row in registry().values() if suite is None or suite in row.suites]
    if as_json:
        print(json.dumps([_registry_row(row) for row in rows], indent=2))
        return
    table = Table("name", "dataset", "test", "classes", "px", "templates", "tables", box=None)
    for row in rows:
        numbers = (row.test, row.classes, row.resolution, row.template_count)
        table.add_row(row.name, row.title, *map(str, numbers), ", ".join(row.suites))
    Console(highlight=False, markup=False, width=100).print(table)


def _registry_row(row: Registered) -> dict[str, Any]:
    return {
        "name": row.name,
        "title": row.title,
        "suites": list(row.suites),
        "test": row.test,
        "classes": row.classes,
        "resolution": row.resolution,
        "metric": row.metric,
        "templates": row.template_count,
        "clip_benchmark": row.clip_benchmark,
        "torchvision": row.torchvision and row.torchvision.cls,
    }
