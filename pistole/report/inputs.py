"""What the report reads: the tables of earlier stages, checked to belong together."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pistole.errors import UserError
from pistole.files import read_json
from pistole.params import CHECKS, SOURCES, Params
from pistole.report.gallery import read_gallery
from pistole.report.tables import in_order

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
        outcomes: task -> bool ``[images, models, 2]``: right when clean, right under attack.
        anchors: model -> clean and robust mean, measured as the frontier's curves are.
        frontier: method -> its curve.
        theory: check -> its record, of the checks that were run.
        lambdas: method -> lambda chosen on held-out images.
        select: rows of the choice.
        recipes: method -> recipe of the merge.
        sources: source -> record of its training and its curve.
        stability: source -> summary of its scores.
        masks: rows of the masks' statistics: variant, source, layer, numbers.
        gallery: record and pictures of stage ``gallery``; None if none are wanted.
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
    names = list(in_order(params.models))
    tables, models = {}, {}
    for name in names:
        stage, folder = f"evaluate@{name}", artifacts / "evaluation" / name
        models[name] = _record(folder / "summary.json", stage)
        tables[name] = pq.read_table(_present(folder / "outcomes.parquet", stage))
    _same_questions(models, tables, params.datasets)
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
        lambdas=in_order(_record(artifacts / "select" / "lambda.json", "select")),
        select=_rows(artifacts / "select" / "grid.csv", "select"),
        recipes={
            m: _record(artifacts / "merged" / m / "recipe.json", f"merge@{m}")
            for m in params.methods
        },
        sources={s: _source(artifacts / "checkpoints" / s, f"finetune@{s}") for s in SOURCES},
        stability={
            s: _record(artifacts / "stability" / s / "summary.json", f"stability@{s}")
            for s in SOURCES
        },
        masks=_rows(artifacts / "masks" / "statistics.csv", "masks"),
        gallery=read_gallery(artifacts / "gallery") if params.report.gallery else None,
    )


def _present(path: Path, stage: str) -> Path:
    if not path.is_file():
        raise UserError(f"{path} does not exist: run stage {stage}, which writes it")
    return path


def _record(path: Path, stage: str) -> dict[str, Any]:
    return read_json(_present(path, stage))


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _rows(path: Path, stage: str) -> list[Row]:
    with _present(path, stage).open(newline="", encoding="utf-8") as stream:
        return [
            {key: value if key == "id" else _number(value) for key, value in row.items()}
            for row in csv.DictReader(stream)
        ]


def _recorded(folder: Path, table: str, stage: str) -> Recorded:
    return Recorded(_record(folder / "summary.json", stage), _rows(folder / table, stage))


def _frontier(folder: Path, stage: str) -> Recorded:
    curve = _recorded(folder, "frontier.csv", stage)
    if not curve.rows:
        raise UserError(f"{folder / 'frontier.csv'} has no rows: run stage {stage} again")
    return Recorded(curve.summary, sorted(curve.rows, key=lambda row: row["lambda"]))


def _source(folder: Path, stage: str) -> Recorded:
    return Recorded(_record(folder / "training.json", stage), _rows(folder / "curve.csv", stage))


def _of_task(table: pa.Table, task: str) -> pa.Table:
    return table.filter(pc.equal(table["dataset"], task))


def _answers(table: pa.Table, task: str, attacked: str, ids: list[str] | None = None) -> np.ndarray:
    """Right when clean and right under attack, bool ``[images, 2]``."""
    part = _of_task(table, task)
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


def _same_questions(
    models: dict[str, dict[str, Any]], tables: dict[str, pa.Table], tasks: tuple[str, ...]
) -> None:
    """Refuse to compare models that were not asked the same, image by image."""
    first = next(iter(models))
    for name, summary in models.items():
        again = f"run stages evaluate@{first} and evaluate@{name} again"
        missing = [task for task in tasks if task not in summary["tasks"]]
        if missing:
            raise UserError(f"evaluation of {name} lacks {missing[0]}: run stage evaluate@{name}")
        for key in ("attack", "seed"):
            if summary[key] != models[first][key]:
                raise UserError(f"{name} and {first} were evaluated with another {key}: {again}")
        for task in tasks:
            asked, own = (_of_task(tables[n], task).select(["id", "label"]) for n in (first, name))
            digests = {models[n]["tasks"][task]["data_digest"] for n in (first, name)}
            if len(digests) > 1 or not asked.equals(own) or len(own) == 0:
                raise UserError(f"{name} and {first} answered other images of {task}: {again}")
