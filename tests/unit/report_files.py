"""Writes JSON and CSV files, with the folders above them."""

import csv
import json
from pathlib import Path


def write_json(path: Path, value: object) -> None:
    """Write JSON and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write a table and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
