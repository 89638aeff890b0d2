"""What the report reads: the tables of earlier stages, checked to belong together."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pistole.errors import UserError
from pistole.params import CHECKS, SOURCES, Params
from pistole.report.evaluations import of_task, present, read_evaluations, record
from pistole.report.gallery import read_gallery
from pistole.report.tables import in_order
from pistole.report.transfer import after_pool

Row = dict[str, Any]


@dataclass(frozen=True)
class Recorded:
    """A stage's summary and its table.

    Attributes:
        summary: the JSON record.
        rows: the table's rows; numbers are floats.
    """

    summary: dict[str, Any]
    rows: list[Row]


@dataclass(frozen=True)
class Results:
    """Everything the report shows.

    Attributes:
        models: model -> summary of its evaluation.
        outcomes: task -> bool ``[images, models, 2]``: right when clean, right under attack (and
            after the transfer pool, where it is on).
        anchors: model -> clean and robust mean, measured as the frontier's curves are, which the
            pool does not enter.
        frontier: method -> its curve.
        theory: check -> its record, of the checks that were run.
        lambdas: method -> lambda chosen on held-out images.
        select: rows of the choice.
        recipes: method -> recipe of the merge.
        sources: source -> record of its training and its curve.
        stability: source -> summary of its scores.
        masks: rows of the masks' statistics: variant, source, layer, numbers.
        gallery: record and pictures of stage ``gallery``; None if none are wanted.
        transfer: model -> what stage ``transfer`` recorded of it; None if the pool is off.
    """

    models: dict[str, dict[str, Any]]
    outcomes: dict[str, np.ndarray]
    anchors: dict[str, tuple[float, float]]
    frontier: dict[str, Recorded]
    theory: dict[str, Recorded]
    lambdas: dict[str, float]
    select: list[Row]
    recipes: dict[str, dict[str, Any]]
    sources: dict[str, Recorded]
    stability: dict[str, dict[str, Any]]
    masks: list[Row]
    gallery: tuple[dict[str, Any], dict[str, np.ndarray]] | None
    transfer: dict[str, dict[str, Any]] | None


def read_results(params: Params, artifacts: Path) -> Results:
    """Read what the report needs and check that all models answered the same questions.

    Args:
        params: ``models``, ``methods`` and ``datasets`` are read.
        artifacts: folder of all stages' results.

    Returns:
        The results.

    Raises:
        UserError: a file is missing (the stage to run is named), or two models were evaluated on
            other images or with another attack.
    """
    models, tables = read_evaluations(params, artifacts / "evaluation")
    names, transfer = list(models), None
    if params.attack.evaluate.transfer:
        models, tables, transfer = after_pool(models, tables, artifacts / "transfer")
    frontier = {
        m: _frontier(artifacts / "frontier" / m, f"frontier@{m}") for m in params.frontier.methods
    }
    curve = next(iter(frontier.values()))
    return Results(
        models=models,
        outcomes={
            task: np.stack(
                [_answers(tables[name], task, "robust_correct") for name in names], axis=1
            )
            for task in params.datasets
        },
        anchors={name: _anchor(tables[name], curve.summary["ids"]) for name in names},
        frontier=frontier,
        theory={
            check: _recorded(artifacts / "theory" / check, "table.csv", f"theory@{check}")
            for check in CHECKS
            if (artifacts / "theory" / check).is_dir()
        },
        lambdas=in_order(record(artifacts / "select" / "lambda.json", "select")),
        select=_rows(artifacts / "select" / "grid.csv", "select"),
        recipes={
            m: record(artifacts / "merged" / m / "recipe.json", f"merge@{m}")
            for m in params.methods
        },
        sources={s: _source(artifacts / "checkpoints" / s, f"finetune@{s}") for s in SOURCES},
        stability={
            s: record(artifacts / "stability" / s / "summary.json", f"stability@{s}")
            for s in SOURCES
        },
        masks=_rows(artifacts / "masks" / "statistics.csv", "masks"),
        gallery=read_gallery(artifacts / "gallery") if params.report.gallery else None,
        transfer=transfer,
    )


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _rows(path: Path, stage: str) -> list[Row]:
    with present(path, stage).open(newline="", encoding="utf-8") as stream:
        return [
            {key: value if key == "id" else _number(value) for key, value in row.items()}
            for row in csv.DictReader(stream)
        ]


def _recorded(folder: Path, table: str, stage: str) -> Recorded:
    return Recorded(record(folder / "summary.json", stage), _rows(folder / table, stage))


def _frontier(folder: Path, stage: str) -> Recorded:
    curve = _recorded(folder, "frontier.csv", stage)
    if not curve.rows:
        raise UserError(f"{folder / 'frontier.csv'} has no rows: run stage {stage} again")
    return Recorded(curve.summary, sorted(curve.rows, key=lambda row: row["lambda"]))


def _source(folder: Path, stage: str) -> Recorded:
    return Recorded(record(folder / "training.json", stage), _rows(folder / "curve.csv", stage))


def _answers(table: pa.Table, task: str, attacked: str, ids: list[str] | None = None) -> np.ndarray:
    """Right when clean and right under attack, bool ``[images, 2]``."""
    part = of_task(table, task)
    if ids is not None:
        part = part.filter(pc.is_in(part["id"], pa.array(ids)))
    columns = [part[name].fill_null(False).to_numpy() for name in ("clean_correct", attacked)]
    return np.stack(columns, axis=1).astype(bool)


def _anchor(table: pa.Table, ids: dict[str, list[str]]) -> tuple[float, float]:
    """Accuracies on the frontier's images under the frontier's attack, APGD-CE alone."""
    answers = [_answers(table, task, "apgd_ce_correct", own) for task, own in ids.items()]
    clean = [rows[:, 0].mean() for rows in answers]
    attacked = [rows.all(axis=1).mean() for rows in answers]
    return float(np.mean(clean)), float(np.mean(attacked))
