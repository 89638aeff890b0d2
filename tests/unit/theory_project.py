"""One micro project for the checks agreement, linear_frontier and conflict_map."""

import csv
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pistole.files import read_json
from pistole.report.inputs import Recorded, _rows
from tests.e2e.micro import FINETUNED, PREPARED, SCORED, run_micro

LAM = 0.5
METHODS = ["wise_ft", "vanilla", "pistole"]
CHANGES = {
    "frontier__grid": [0, 0.5, 1],
    "frontier__methods": METHODS,
    "theory__linear_frontier__resamples": 50,
    "theory__conflict_map__repeats": 3,
    "slices": {"finetune": 64, "score": 16, "measure": 17, "select": 16, "test": 16},
}
CHECKS = ("agreement", "linear_frontier", "conflict_map")


@cache
def _made(folder: Path) -> Path:
    merge = ["merge", "pistole", "--lambda", str(LAM)]
    commands = [*PREPARED, *FINETUNED, *SCORED, ["select"], merge]
    commands += [["frontier", method] for method in METHODS]
    commands += [["theory", check] for check in CHECKS]
    folder.mkdir()
    return run_micro(folder, commands, **CHANGES)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro project with all three checks run, made once per test process."""
    return _made(tmp_path_factory.getbasetemp() / "three_checks")


def record(project: Path, check: str) -> Recorded:
    """What a check wrote, as the report reads it."""
    folder = project / "artifacts/theory" / check
    return Recorded(read_json(folder / "summary.json"), _rows(folder / "table.csv", check))


def table(project: Path, check: str) -> list[dict[str, Any]]:
    """Rows of a check's table, as text."""
    with (project / "artifacts/theory" / check / "table.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))
