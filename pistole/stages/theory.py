"""Stage ``theory@CHECK``: one claim of the theory, on images that the scores never saw."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pistole.errors import UserError
from pistole.files import atomic_directory, write_csv, write_json
from pistole.params import Params
from pistole.stages import theory_interference, theory_pci_trace

Check = Callable[[Params, Path], tuple[list[dict[str, Any]], dict[str, Any]]]

CHECKS: dict[str, Check] = {
    "interference": theory_interference.check,
    "pci_trace": theory_pci_trace.check,
}


def run(params: Params, check: str, artifacts: Path, out: Path) -> dict[str, float]:
    """Run one check.

    Args:
        params: ``theory.CHECK``, ``stability`` and ``attack.calibration`` are read.
        check: a key of :data:`CHECKS`.
        artifacts: folder of all artifacts.
        out: folder for ``table.csv`` and ``summary.json`` (claim, measurement, verdict, numbers).

    Returns:
        The numbers of the summary.

    Raises:
        UserError: there is no such check.
    """
    if check not in CHECKS:
        raise UserError(f"theory check '{check}' is unknown: use one of {', '.join(CHECKS)}")
    rows, summary = CHECKS[check](params, artifacts)
    with atomic_directory(out) as folder:
        write_csv(folder / "table.csv", list(rows[0]), rows)
        write_json(folder / "summary.json", summary)
    return {name: float(value) for name, value in summary.items() if isinstance(value, int | float)}
