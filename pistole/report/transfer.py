"""Outcomes after the transfer pool (docs/method.md D.2): what stage ``transfer`` took away."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pistole.errors import UserError
from pistole.report.evaluations import Summaries, Tables, present, record

HEADLINE = "robust_correct"
STAGE = "transfer"


def after_pool(models: Summaries, tables: Tables, folder: Path) -> tuple[Summaries, Tables, dict]:
    """Take the right answers away that fell to images found for other models.

    Args:
        models: model -> summary of its evaluation.
        tables: model -> a row per image.
        folder: what stage ``transfer`` wrote.

    Returns:
        The summaries, whose attack says that the pool was used; the tables after it; and the
        stage's record of the models.

    Raises:
        UserError: the stage did not run, was off, or saw other evaluations.
    """
    pool = record(folder / "summary.json", STAGE)
    fell = pq.read_table(present(folder / "fooled.parquet", STAGE))
    _require_same(models, pool, folder)
    gone: dict[str, set] = {name: set() for name in models}
    for row in fell.to_pylist():
        gone.setdefault(row["model"], set()).add((row["dataset"], row["id"]))
    after = {name: _without(table, gone[name], folder) for name, table in tables.items()}
    attacked = {
        name: summary | {"attack": {**summary["attack"], "transfer": True}}
        for name, summary in models.items()
    }
    return attacked, after, {name: pool["models"][name] for name in models}


def told(pool: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise the pool for ``report/metrics.json``.

    Args:
        pool: model -> what stage ``transfer`` recorded of it.

    Returns:
        model -> ``robust_mean_before``, ``fell`` by task and ``fooled_by`` by model.
    """
    found = {}
    for name, entry in pool.items():
        fooled: dict[str, int] = {}
        for task in entry["tasks"].values():
            for other, count in task["fooled_by"].items():
                fooled[other] = fooled.get(other, 0) + count
        fell = {task: sum(about["fooled_by"].values()) for task, about in entry["tasks"].items()}
        before = entry["robust_mean_before"]
        found[name] = {"robust_mean_before": before, "fell": fell, "fooled_by": fooled}
    return found


def sentence(transfer: Mapping[str, Mapping[str, Any]]) -> str:
    """Say what the pool did.

    Args:
        transfer: of :func:`told`; empty if the pool was off.

    Returns:
        One sentence, or nothing.
    """
    if not transfer:
        return ""
    fell = sum(sum(entry["fell"].values()) for entry in transfer.values())
    return (
        "Robust accuracies are after the transfer pool: every model was also tried on the "
        f"adversarial images found for the others, and {fell} answers of {len(transfer)} models "
        "fell to them."
    )


def _require_same(models: Summaries, pool: Mapping[str, Any], folder: Path) -> None:
    again = "run stage transfer again"
    if not pool["transfer"]:
        raise UserError(
            f"{folder / 'summary.json'} says that the pool was off, but attack.evaluate.transfer "
            f"is true: {again}"
        )
    for name, summary in models.items():
        seen = pool["models"].get(name, {"digest": None})
        ours = {task: about["data_digest"] for task, about in summary["tasks"].items()}
        theirs = {task: about["data_digest"] for task, about in seen.get("tasks", {}).items()}
        same = seen["digest"] == summary["digest"] and ours == theirs
        attack = {**summary["attack"], "transfer": True}
        if not same or pool["attack"] != attack or pool["seed"] != summary["seed"]:
            raise UserError(f"the pool of {folder} saw another evaluation of {name}: {again}")


def _without(table: pa.Table, gone: set, folder: Path) -> pa.Table:
    right = table[HEADLINE].fill_null(False).to_pylist()
    places = zip(table["dataset"].to_pylist(), table["id"].to_pylist(), strict=True)
    fell = [place in gone for place in places]
    lost = sum(was and falls for was, falls in zip(right, fell, strict=True))
    if lost != len(gone):
        raise UserError(
            f"{folder / 'fooled.parquet'} names {len(gone)} right answers of a model, of which its "
            f"evaluation has {lost}: run stage transfer again"
        )
    kept = pa.array([was and not falls for was, falls in zip(right, fell, strict=True)])
    return table.set_column(table.schema.get_field_index(HEADLINE), HEADLINE, kept)
