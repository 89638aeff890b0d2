"""Stage ``theory@CHECK``: one claim of the theory, on images that the scores never saw."""

import importlib
from pathlib import Path

from pistole.errors import UserError
from pistole.files import atomic_directory, write_csv, write_json
from pistole.params import Params

# Each is a module of this folder with check(params, artifacts) -> rows of its table, summary.
CHECKS = (
    "interference",
    "pci_trace",
    "merge_path",
    "agreement",
    "linear_frontier",
    "conflict_map",
)


def run(params: Params, check: str, artifacts: Path, out: Path) -> dict[str, float]:
    """Run one check.

    Args:
        params: ``theory.CHECK`` and what the check names are read.
        check: a name of :data:`CHECKS`.
        artifacts: folder of all artifacts.
        out: folder for ``table.csv`` and ``summary.json`` (claim, measurement, verdict, numbers).

    Returns:
        The numbers of the summary.

    Raises:
        UserError: there is no such check.
    """
    if check not in CHECKS:
        raise UserError(f"theory check '{check}' is unknown: use one of {', '.join(CHECKS)}")
    module = importlib.import_module(f"pistole.stages.theory.{check}")
    rows, summary = module.check(params, artifacts)
    with atomic_directory(out) as folder:
        write_csv(folder / "table.csv", list(rows[0]), rows)
        write_json(folder / "summary.json", summary)
    return {name: float(value) for name, value in summary.items() if isinstance(value, int | float)}
