"""What a stage wants to be remembered. Imports nothing heavy: the writing process reads it too."""

import hashlib
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def now() -> int:
    """Return the time in ms since 1970, as MLflow counts it."""
    return time.time_ns() // 1_000_000


@dataclass
class StageRun:
    """What a stage wants to be remembered; kept in memory until the stage has ended."""

    stage: str
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    files: list[tuple[Path, str]] = field(default_factory=list)
    tables: dict[str, Any] = field(default_factory=dict)

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Remember a number.

        Args:
            name: name of the metric.
            value: its value.
            step: training step or epoch; left out if there is only one value.
        """
        self.metrics.append((name, float(value), step or 0, now()))

    def figure(self, path: str | Path) -> None:
        """Remember a figure.

        Args:
            path: its file, which must still be there when the stage ends.
        """
        self.artifact(path, "figures")

    def artifact(self, path: str | Path, folder: str = "") -> None:
        """Remember a file.

        Args:
            path: the file, which must still be there when the stage ends.
            folder: folder of the run's artifacts to put it in.
        """
        self.files.append((Path(path), folder))

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Remember a table, as the artifact ``tables/NAME.json``.

        Args:
            name: name of the table.
            rows: JSON-able rows.
        """
        columns = list(dict.fromkeys(column for row in rows for column in row))
        data = [[row.get(column) for column in columns] for row in rows]
        self.tables[f"tables/{name}.json"] = {"columns": columns, "data": data}

    def measured(self, root: Path) -> dict[str, Any]:
        """Put everything into one JSON-able value, from which the run can be written again.

        Args:
            root: folder that paths are relative to; files elsewhere keep their absolute path.

        Returns:
            ``metrics`` as (name, value, step, time) with NaN and infinity as words, ``tables``, and
            ``files`` as (path, folder, sha256).
        """
        metrics = [
            [name, value if math.isfinite(value) else str(value), step, at]
            for name, value, step, at in self.metrics
        ]
        files = [
            [_relative(path, root), folder, hashlib.sha256(path.read_bytes()).hexdigest()]
            for path, folder in self.files
        ]
        return {"metrics": metrics, "tables": self.tables, "files": files}


def from_measured(stage: str, root: Path, measured: Mapping[str, Any]) -> StageRun:
    """Make what a stage remembered from what it measured; files that have changed are left out.

    Args:
        stage: DVC's name of the stage.
        root: folder that paths are relative to.
        measured: value of :meth:`StageRun.measured`.

    Returns:
        The record.
    """
    run = StageRun(stage, tables=dict(measured["tables"]))
    run.metrics = [(name, float(value), step, at) for name, value, step, at in measured["metrics"]]
    for path, folder, digest in measured["files"]:
        file = root / path
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == digest:
            run.files.append((file, folder))
    return run


def _relative(path: Path, root: Path) -> str:
    place = Path(os.path.normpath(Path.cwd() / path))
    return str(place.relative_to(root) if place.is_relative_to(root) else place)
