"""What stage ``evaluate`` wrote about every model, checked to belong together."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pistole.errors import UserError
from pistole.files import read_json
from pistole.params import Params
from pistole.report.tables import in_order

Summaries = dict[str, dict[str, Any]]
Tables = dict[str, pa.Table]


def read_evaluations(params: Params, folder: Path) -> tuple[Summaries, Tables]:
    """Read the evaluations of all models and check that they answered the same questions.

    Args:
        params: ``models`` and ``datasets`` are read.
        folder: with one folder per model.

    Returns:
        model -> its summary, and model -> its table with a row per image, both in the order of the
        paper's table.

    Raises:
        UserError: a file is missing (the stage to run is named), or two models were evaluated on
            other images or with another attack.
    """
    models, tables = {}, {}
    for name in in_order(params.models):
        stage = f"evaluate@{name}"
        models[name] = record(folder / name / "summary.json", stage)
        tables[name] = pq.read_table(present(folder / name / "outcomes.parquet", stage))
    _same_questions(models, tables, params.datasets)
    return models, tables


def present(path: Path, stage: str) -> Path:
    """Name the stage to run where a file is missing.

    Args:
        path: the file.
        stage: what writes it.

    Returns:
        The path.

    Raises:
        UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist: run stage {stage}, which writes it")
    return path


def record(path: Path, stage: str) -> dict[str, Any]:
    """Read a JSON file of a stage.

    Args:
        path: the file.
        stage: what writes it.

    Returns:
        Its value.

    Raises:
        UserError: there is no such file.
    """
    return read_json(present(path, stage))


def of_task(table: pa.Table, task: str) -> pa.Table:
    """Pick the rows of one dataset.

    Args:
        table: a row per image, with a column ``dataset``.
        task: the dataset.

    Returns:
        Its rows.
    """
    return table.filter(pc.equal(table["dataset"], task))


def _same_questions(models: Summaries, tables: Tables, tasks: tuple[str, ...]) -> None:
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
            asked, own = (of_task(tables[n], task).select(["id", "label"]) for n in (first, name))
            digests = {models[n]["tasks"][task]["data_digest"] for n in (first, name)}
            if len(digests) > 1 or not asked.equals(own) or len(own) == 0:
                raise UserError(f"{name} and {first} answered other images of {task}: {again}")
