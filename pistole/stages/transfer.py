"""Stage ``transfer``: every model on the adversarial images that were found for the others.

Nothing here imports torch: with the pool off, as it is by default, the stage only says so.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pistole.files import atomic_directory, write_json
from pistole.params import Params
from pistole.progress import counting

if TYPE_CHECKING:
    from pistole.stages.pooling import Pool

COLUMNS = pa.schema([(name, pa.string()) for name in ("model", "dataset", "id", "fooled_by")])


def run(params: Params, base: Path, data: Path, evaluation: Path, out: Path) -> dict[str, float]:
    """Apply the transfer pool to all models alike.

    Args:
        params: ``models``, ``datasets`` and ``attack`` are read.
        base: what stage ``base`` wrote.
        data: folder with one folder per dataset.
        evaluation: folder with what stage ``evaluate`` wrote about each model.
        out: folder for ``fooled.parquet`` and ``summary.json``.

    Returns:
        How many right answers fell, and how many images were classified.
    """
    rows: list[dict[str, str]] = []
    summary: dict[str, Any] = {"transfer": params.attack.evaluate.transfer, "models": {}}
    if params.attack.evaluate.transfer:
        from pistole.report.evaluations import read_evaluations
        from pistole.stages.pooling import Pool

        pool = Pool(params, base, data, evaluation, *read_evaluations(params, evaluation))
        first = next(iter(pool.models.values()))
        summary |= {"attack": {**first["attack"], "transfer": True}, "seed": first["seed"]}
        rows, summary["models"] = _all(pool)
    with atomic_directory(out) as folder:
        write_json(folder / "summary.json", summary)
        pq.write_table(pa.Table.from_pylist(rows, schema=COLUMNS), folder / "fooled.parquet")
    tasks = [line for model in summary["models"].values() for line in model["tasks"].values()]
    return {"fell": len(rows), "forwards": sum(line["forwards"] for line in tasks)}


def _all(pool: "Pool") -> tuple[list[dict[str, str]], dict[str, Any]]:
    """Every model on the images of every other one."""
    rows, models, clf = [], {}, pool.start()
    with counting("transfer", len(pool.models)) as advance:
        for name, about in pool.models.items():
            fallen, tasks = pool.try_on(name, clf)
            rows += fallen
            models[name] = {
                "digest": about["digest"],
                "tasks": tasks,
                "robust_mean_before": _mean(tasks, "robust_before"),
                "robust_mean": _mean(tasks, "robust"),
            }
            advance(f"{name} {len(fallen)} fell")
    return rows, models


def _mean(tasks: dict[str, dict[str, Any]], key: str) -> float:
    return sum(line[key] for line in tasks.values()) / len(tasks)
