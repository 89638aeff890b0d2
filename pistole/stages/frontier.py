"""Stage ``frontier@METHOD``: clean and robust accuracy over lambda, composed in memory."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pistole.files import atomic_directory, write_csv, write_json
from pistole.params import Params
from pistole.progress import track
from pistole.robust.journal import forget
from pistole.stages.attacking import Attacker, ensemble_spec, means
from pistole.stages.composing import read_ingredients
from pistole.stages.merge import chosen_options
from pistole.stages.runtime import RESUME, classifier, device_of, with_parameters


def run(
    params: Params,
    method: str,
    base: Path,
    natural: Path,
    robust: Path,
    masks: Path,
    data: Path,
    out: Path,
    select: Path | None = None,
    prepared: Path | None = None,
) -> dict[str, float]:
    """Sweep lambda at the method's tuned options; no checkpoint is stored.

    The attack is the ensemble's APGD-CE alone: a curve needs many models, and the table has the
    full ensemble.

    Args:
        params: ``frontier`` and ``attack`` are read.
        method: merging method.
        base: what stage ``base`` wrote.
        natural: natural task vector.
        robust: robust task vector.
        masks: folder of stage ``masks``.
        data: folder with one folder per dataset.
        out: folder for ``frontier.csv``, ``outcomes.parquet`` (a row per lambda and image) and
            ``summary.json``.
        select: folder of stage ``select``, for methods with tuned options.
        prepared: folder with a folder per preparation, for methods that need one.

    Returns:
        The largest clean + robust sum on the curve and its lambda.
    """
    device = device_of(params)
    ingredients = read_ingredients(params, method, base, natural, robust, masks, prepared)
    options = chosen_options(method, select)
    clf = classifier(base, params.datasets[0], device)
    journals = RESUME / f"frontier-{method}"
    attacker = Attacker(params, clf, ensemble_spec(params, apgd_ce_alone=True), base, journals)
    rows, ids, outcomes = [], {}, []
    for lam in track(params.frontier.grid, f"frontier {method}"):
        with_parameters(clf, ingredients.compose(method, lam, options))
        tasks = {}
        for name in params.datasets:
            table, tasks[name] = attacker.attack(data / name, params.frontier.images)
            ids[name] = table["id"].to_pylist()
            own = table.select(["dataset", "id", "clean_correct", "robust_correct"])
            outcomes.append(own.append_column("lambda", pa.array([float(lam)] * len(own))))
        clean, attacked = means(tasks)
        row = {"lambda": lam, "clean_mean": clean, "robust_mean": attacked}
        row |= {
            f"{kind}/{task}": line[kind]
            for kind in ("clean", "robust")
            for task, line in tasks.items()
        }
        rows.append(row)
    with atomic_directory(out) as folder:
        write_csv(folder / "frontier.csv", list(rows[0]), rows)
        record = {"attack": attacker.describe(), "images": params.frontier.images, "ids": ids}
        record["options"] = options
        write_json(folder / "summary.json", record)
        pq.write_table(pa.concat_tables(outcomes), folder / "outcomes.parquet")
    forget(journals)
    best = max(rows, key=lambda row: row["clean_mean"] + row["robust_mean"])
    return {"best_sum": best["clean_mean"] + best["robust_mean"], "best_lambda": best["lambda"]}
