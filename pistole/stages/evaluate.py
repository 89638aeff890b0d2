"""Stage ``evaluate@MODEL``: clean and robust accuracy on every task, with a row per sample."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pistole.files import atomic_directory, read_json, sha256_tensors, write_json
from pistole.lineage.record import StageRun
from pistole.models.zeroshot import ZeroShotClassifier, parameters_of, with_head
from pistole.params import Params
from pistole.progress import counting
from pistole.robust.ensemble import EnsembleSpec, evaluate
from pistole.stages.runtime import classifier, device_of, text_head, tower, with_parameters
from pistole.stages.slices import read_slice

KEPT = ("n", "clean", "robust", "data_digest")
MEANS = ("clean_mean", "robust_mean", "sum")


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

    Args:
        params: ``datasets``, ``attack.eps`` and ``attack.evaluate`` are read.
        name: the model's name in the table.
        model: folder with ``visual.safetensors``, or a checkpoint file.
        base: what stage ``base`` wrote.
        data: folder with one folder per dataset.
        out: folder for ``summary.json`` and ``outcomes.parquet``.
        means_file: gets the three means, for ``dvc metrics``.
        record: gets the table for the tracker.

    Returns:
        Accuracies per task and their means.
    """
    device = device_of(params)
    spec = ensemble_spec(params)
    clf = classifier(base, params.datasets[0], device)
    with_parameters(clf, tower(model, base, device))
    tasks, tables = {}, []
    with counting(f"evaluate {name}", len(params.datasets)) as advance:
        for dataset in params.datasets:
            columns, line = attack_task(clf, spec, base, data / dataset, params.seed)
            tables.append(columns)
            tasks[dataset] = line
            accuracies = f"clean {line['clean']:.3f} robust {line['robust']:.3f}"
            advance(f"{dataset} {accuracies} (n = {line['n']})")
    summary = {
        "model": name,
        "digest": sha256_tensors(parameters_of(clf)),
        "seed": params.seed,
        "attack": spec.describe(),
        "tasks": tasks,
        "lineage": _lineage(model),
    }
    if record is not None:
        rows = [{"task": task, **{k: line[k] for k in KEPT}} for task, line in tasks.items()]
        record.table("tasks", rows)
    with atomic_directory(out) as folder:
        write_json(folder / "summary.json", summary)
        pq.write_table(pa.concat_tables(tables), folder / "outcomes.parquet")
    metrics = _metrics(tasks)
    if means_file is not None:
        write_json(means_file, {name: metrics[name] for name in MEANS})
    return metrics


def ensemble_spec(params: Params, targets: int | None = None) -> EnsembleSpec:
    """Read the evaluation ensemble from the parameters.

    Args:
        params: ``attack`` is read.
        targets: overrides the number of APGD-T targets; 0 leaves APGD-T out.

    Returns:
        The ensemble.
    """
    knobs = params.attack.evaluate
    return EnsembleSpec(
        eps=params.attack.eps,
        apgd_ce_steps=knobs.apgd_ce.steps,
        apgd_ce_restarts=knobs.apgd_ce.restarts,
        apgd_t_steps=knobs.apgd_t.steps,
        apgd_t_restarts=knobs.apgd_t.restarts,
        targets=knobs.apgd_t.targets if targets is None else targets,
        batch_size=knobs.batch_size,
    )


def attack_task(
    clf: ZeroShotClassifier,
    spec: EnsembleSpec,
    base: Path,
    data: Path,
    seed: int,
    subset: int | None = None,
) -> tuple[pa.Table, dict]:
    """Evaluate a model on the test slice of one dataset.

    Args:
        clf: any classifier with the model's visual tower.
        spec: the ensemble.
        base: holds the dataset's text features.
        data: the dataset's folder.
        seed: run seed.
        subset: only so many images, each class with its share.

    Returns:
        The table with one row per sample, and the summary of the task.
    """
    images = read_slice(data, "test", subset)
    device = next(clf.parameters()).device
    head = with_head(clf, text_head(base, images.dataset).to(device))
    result = evaluate(
        head, images.pixels(), images.labels, images.ids, spec, seed=seed, dataset=images.dataset
    )
    table = pa.table({"dataset": [images.dataset] * len(images), **result.columns})
    count = len(images)
    return table, {
        "n": count,
        "clean": sum(result.columns["clean_correct"]) / count,
        "robust": sum(result.columns["robust_correct"]) / count,
        "data_digest": images.digest,
        "notes": list(result.notes),
    }


def means(tasks: dict[str, dict]) -> tuple[float, float]:
    """Return mean clean and mean robust accuracy over tasks, each task weighing the same.

    Args:
        tasks: summaries of :func:`attack_task`.

    Returns:
        Two fractions.
    """
    count = len(tasks)
    return sum(t["clean"] for t in tasks.values()) / count, sum(
        t["robust"] for t in tasks.values()
    ) / count


def _metrics(tasks: dict[str, dict]) -> dict[str, float]:
    clean, robust = means(tasks)
    per_task = {
        f"{kind}/{task}": line[kind] for task, line in tasks.items() for kind in ("clean", "robust")
    }
    return {"clean_mean": clean, "robust_mean": robust, "sum": clean + robust, **per_task}


def _lineage(model: Path) -> dict:
    """What the model's folder tells about where it comes from."""
    for record in ("recipe.json", "training.json", "model.json"):
        if (model / record).is_file():
            return {"record": record, **read_json(model / record)}
    return {"record": None}
