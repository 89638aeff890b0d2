"""Stage ``evaluate@MODEL``: clean and robust accuracy on every task, with a row per sample."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pistole.files import atomic_directory, read_json, sha256_tensors, write_json
from pistole.lineage.record import StageRun
from pistole.models.zeroshot import parameters_of
from pistole.params import Params
from pistole.progress import counting
from pistole.robust.found import Found
from pistole.robust.journal import forget
from pistole.stages.adversarial import ADVERSARIAL, write_found
from pistole.stages.attacking import Attacker, ensemble_spec, means
from pistole.stages.runtime import RESUME, classifier, device_of, tower, with_parameters

MEANS = ("_mean", "sum", "/mean")  # how the names of means over tasks end
KEPT = ("n", "clean", "robust", "data_digest")


def run(
    params: Params,
    name: str,
    model: Path,
    base: Path,
    data: Path,
    out: Path,
    means_file: Path | None = None,
    record: StageRun | None = None,
) -> dict[str, float]:
    """Attack a model with the evaluation ensemble on the test slice of every dataset.

    A killed evaluation goes on where it stopped: outcomes of batches are kept in
    ``.pistole/resume`` until the output is written. For the transfer pool the adversarial images
    that were found are kept too; the accuracies are those before it.

    Args:
        params: ``datasets``, ``attack.eps`` and ``attack.evaluate`` are read.
        name: the model's name in the table.
        model: folder with ``visual.safetensors``, or a checkpoint file.
        base: what stage ``base`` wrote.
        data: folder with one folder per dataset.
        out: folder for ``summary.json`` and ``outcomes.parquet``; with ``attack.evaluate.transfer``
            also for ``adversarial/DATASET.safetensors``.
        means_file: gets the three means, for ``dvc metrics``.
        record: gets the table for the tracker.

    Returns:
        Accuracies per task and their means.
    """
    device = device_of(params)
    clf = classifier(base, params.datasets[0], device)
    with_parameters(clf, tower(model, base, device))
    journals = RESUME / f"evaluate-{name}"
    waiting = journals / ADVERSARIAL if params.attack.evaluate.transfer else None
    if waiting is not None:
        shutil.rmtree(waiting, ignore_errors=True)  # of other datasets, perhaps
    digest = sha256_tensors(parameters_of(clf))
    attacker = Attacker(params, clf, ensemble_spec(params), base, journals)
    tasks, tables = {}, []
    with counting(f"evaluate {name}", len(params.datasets)) as advance:
        for dataset in params.datasets:
            columns, line = _attack(attacker, data / dataset, waiting, digest)
            tables.append(columns)
            tasks[dataset] = line
            accuracies = f"clean {line['clean']:.3f} robust {line['robust']:.3f}"
            advance(f"{dataset} {accuracies} (n = {line['n']})")
    summary = {
        "model": name,
        "digest": digest,
        "seed": params.seed,
        "attack": attacker.describe(),
        "tasks": tasks,
        "lineage": _lineage(model),
    }
    if record is not None:
        record.table("tasks", [_row(task, line) for task, line in tasks.items()])
    with atomic_directory(out) as folder:
        write_json(folder / "summary.json", summary)
        pq.write_table(pa.concat_tables(tables), folder / "outcomes.parquet")
        if waiting is not None:
            shutil.move(waiting, folder / ADVERSARIAL)
    forget(journals)
    metrics = _metrics(tasks)
    if means_file is not None:
        write_json(means_file, {k: v for k, v in metrics.items() if k.endswith(MEANS)})
    return metrics


def _attack(
    attacker: Attacker, data: Path, waiting: Path | None, digest: str
) -> tuple[pa.Table, dict]:
    """Evaluate on one dataset, and leave what fooled the model where the output can take it."""
    params = attacker.params
    found = None if waiting is None else Found(params.attack.eps)
    columns, line = attacker.attack(data, ladder=params.attack.evaluate.ladder, found=found)
    if waiting is not None and found is not None:
        about = {"model": digest, "data_digest": line["data_digest"]}
        write_found(waiting, data.name, found, columns["id"].to_pylist(), about)
    return columns, line


def _row(task: str, line: dict) -> dict:
    others = {f"robust@{radius}": value for radius, value in line["robust_at"].items()}
    return {"task": task, **{key: line[key] for key in KEPT}, **others}


def _metrics(tasks: dict[str, dict]) -> dict[str, float]:
    clean, robust = means(tasks)
    per_task = {
        f"{kind}/{task}": line[kind] for task, line in tasks.items() for kind in ("clean", "robust")
    }
    for radius in next(iter(tasks.values()))["robust_at"]:
        found = {task: line["robust_at"][radius] for task, line in tasks.items()}
        per_task |= {f"robust@{radius}/{task}": value for task, value in found.items()}
        per_task[f"robust@{radius}/mean"] = sum(found.values()) / len(found)
    return {"clean_mean": clean, "robust_mean": robust, "sum": clean + robust, **per_task}


def _lineage(model: Path) -> dict:
    """What the model's folder tells about where it comes from."""
    for record in ("recipe.json", "training.json", "model.json"):
        if (model / record).is_file():
            return {"record": record, **read_json(model / record)}
    return {"record": None}
