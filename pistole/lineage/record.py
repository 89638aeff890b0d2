"""What a stage wants to be remembered. Imports nothing heavy: the writing process reads it too."""

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
