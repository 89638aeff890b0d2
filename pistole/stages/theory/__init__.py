"""Stage ``theory@CHECK``: one claim of the theory, on images that the scores never saw."""

import csv
import importlib
from pathlib import Path

from pistole.errors import UserError, require_choice
from pistole.files import atomic_directory, write_csv, write_json
from pistole.params import CHECKS, Params


def run(params: Params, check: str, artifacts: Path, out: Path) -> dict[str, float]:
    """Run one check.

    Args:
        params: ``theory.CHECK`` and what the check names are read.
        check: its name: a key of ``theory`` and a module of this folder with check(params,
            artifacts) -> rows of its table, summary.
        artifacts: folder of all artifacts.
        out: folder for ``table.csv`` and ``summary.json`` (claim, measurement, verdict, numbers).

    Returns:
        The numbers of the summary.

    Raises:
        UserError: there is no such check.
    """
    require_choice("theory check", check, CHECKS)
    module = importlib.import_module(f"pistole.stages.theory.{check}")
    rows, summary = module.check(params, artifacts)
    with atomic_directory(out) as folder:
        write_csv(folder / "table.csv", list(rows[0]), rows)
        write_json(folder / "summary.json", summary)
    return {name: float(value) for name, value in summary.items() if isinstance(value, int | float)}


def read_grid(path: Path) -> dict[tuple[str, float], tuple[float, float]]:
    """Read the curves over lambda that stage ``select`` measured on held-out training images.

    Controls that are merged with PISTOLE's lambda have none, nor soups; a method's search of its
    options is no part of its curve.

    Args:
        path: ``grid.csv``.

    Returns:
        (method, lambda) -> clean and robust accuracy, in the file's order.

    Raises:
        UserError: the file is missing.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: run stage select, which writes it")
    with path.open(newline="", encoding="utf-8") as stream:
        return {
            (row["method"], float(row["lambda"])): (float(row["clean"]), float(row["robust"]))
            for row in csv.DictReader(stream)
            if row["lambda"] and not row["options"]
        }
