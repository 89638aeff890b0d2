"""Synthetic results of every stage before ``report``, as those stages write them."""

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pistole.params import Params

PROFILE = Path(__file__).parents[2] / "profiles" / "demo.yaml"
TASKS = ("clutter", "digit")
IMAGES = 40
LEVELS = {  # model -> chance of being right when clean, and of surviving then
    "base": (0.80, 0.15),
    "natural": (0.86, 0.20),
    "robust": (0.74, 0.62),
    "wise_ft": (0.77, 0.58),
    "vanilla": (0.80, 0.55),
    "pistole": (0.83, 0.60),
}
ATTACK = {"eps": 4 / 255, "apgd_ce": {"steps": 30, "restarts": 1}, "apgd_t": {"steps": 20}}


def make_params(**changes: object) -> Params:
    """The demo profile with two tasks and few resamples.

    Args:
        **changes: top-level keys to replace.

    Returns:
        Validated parameters.
    """
    raw = yaml.safe_load(PROFILE.read_text())
    raw |= {"datasets": list(TASKS), "report": {"bootstrap": 200}} | changes
    raw["attack"]["evaluate"] |= {
        "apgd_ce": {"steps": 30, "restarts": 1},
        "apgd_t": {"steps": 20, "restarts": 1, "targets": 5},
    }
    return Params.model_validate(raw)


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


def write_artifacts(root: Path, tasks: tuple[str, ...] = TASKS, images: int = IMAGES) -> Path:
    """Write everything the report reads.

    Args:
        root: folder to fill.
        tasks: datasets.
        images: per dataset.

    Returns:
        ``root``.
    """
    source = np.random.default_rng(0)
    hard = {task: source.random((images, 2)) for task in tasks}
    for name, levels in LEVELS.items():
        _evaluation(root / "evaluation" / name, name, levels, hard)
    for number, method in enumerate(("wise_ft", "vanilla", "pistole")):
        _method(root, method, number, tasks)
    write_json(root / "select" / "lambda.json", {"wise_ft": 0.3, "vanilla": 0.4, "pistole": 0.5})
    grid = [{"method": "pistole", "lambda": 0.5, "clean": 0.8, "robust": 0.4}]
    write_csv(root / "select" / "grid.csv", grid)
    for name, objective in (("natural", "erm"), ("robust", "tecoa")):
        _source(root, name, objective, source)
    _interference(root / "theory" / "interference")
    _pci_trace(root / "theory" / "pci_trace", source)
    return root


def _evaluation(folder: Path, name: str, levels: tuple[float, float], hard: dict) -> None:
    lineages = {
        "base": {
            "record": "model.json",
            "digest": "b" * 64,
            "description": {"architecture": "embedded", "activation": "QuickGELU"},
        },
        "natural": {"record": "training.json", **_training("natural", "erm")},
        "robust": {"record": "training.json", **_training("robust", "tecoa")},
    }
    tables, summary = [], {}
    for task, draws in hard.items():
        clean = draws[:, 0] < levels[0]
        robust = clean & (draws[:, 1] < levels[1])
        weak = clean & (draws[:, 1] < levels[1] + 0.05)
        columns = {
            "dataset": [task] * len(draws),
            "id": [f"{task}/{i}" for i in range(len(draws))],
            "label": [i % 5 for i in range(len(draws))],
            "clean_correct": clean,
            "apgd_ce_correct": weak,
            "robust_correct": robust,
        }
        tables.append(pa.table(columns))
        summary[task] = {
            "n": len(draws),
            "clean": float(clean.mean()),
            "robust": float(robust.mean()),
            "data_digest": task[0] * 64,
            "notes": ["4 classes: 3 targets"] if task == "digit" else [],
        }
    record = {
        "model": name,
        "digest": f"{len(name):x}" * 64,
        "seed": 0,
        "attack": ATTACK,
        "tasks": summary,
        "lineage": lineages.get(name) or {"record": "recipe.json", **_recipe(name)},
    }
    write_json(folder / "summary.json", record)
    pq.write_table(pa.concat_tables(tables), folder / "outcomes.parquet")


def _recipe(method: str) -> dict:
    return {
        "method": method,
        "lambda": {"wise_ft": 0.3, "vanilla": 0.4, "pistole": 0.5}[method],
        "rescale": "none",
        "variant": "pistole" if method == "pistole" else None,
        "base_digest": "b" * 64,
        "vectors": {"natural": "1" * 64, "robust": "2" * 64},
        "statistics": {
            "norm_natural": 1.62,
            "norm_robust": 2.41,
            "cosine": 0.21,
            "sign_agreement": 0.57,
        },
    }


def _training(name: str, objective: str) -> dict:
    return {
        "source": name,
        "objective": objective,
        "checkpoint": None,
        "base_digest": "b" * 64,
        "digest": name[0] * 64,
    }


def _method(root: Path, method: str, number: int, tasks: tuple[str, ...]) -> None:
    rows = []
    for lam in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        clean = 0.74 + (0.06, 0.12, 0.125)[number] * lam
        robust = 0.47 - (0.32, 0.3, 0.27)[number] * lam ** (1.2 + 0.5 * number)
        row = {"lambda": lam, "clean_mean": clean, "robust_mean": robust}
        rows.append(row | {f"clean/{task}": clean for task in tasks})
    write_csv(root / "frontier" / method / "frontier.csv", rows)
    ids = {task: [f"{task}/{i}" for i in range(1, 40, 2)] for task in tasks}
    summary = {"attack": {"eps": 4 / 255, "apgd_ce": {"steps": 30}}, "images": 20, "ids": ids}
    write_json(root / "frontier" / method / "summary.json", summary)
    write_json(root / "merged" / method / "recipe.json", _recipe(method))


def _source(root: Path, name: str, objective: str, source: np.random.Generator) -> None:
    write_json(root / "checkpoints" / name / "training.json", _training(name, objective))
    loss = 0.4 + 0.8 * np.exp(-np.arange(200) / 50) + 0.05 * source.standard_normal(200)
    curve = [{"step": i, "loss": float(v), "lr": 1e-4} for i, v in enumerate(loss)]
    write_csv(root / "checkpoints" / name / "curve.csv", curve)
    medians = {"gism": 0.36, "gism_pci": 0.44, "gism_apt": 0.71, "pistole": 0.78}
    summary = {"reliability": medians, "pci_reliability": [0.6, 0.7]}
    write_json(root / "stability" / name / "summary.json", summary)


def _interference(folder: Path) -> None:
    rows = []
    places = itertools.product(("natural", "robust"), ("source", "base"))
    for (gradient, point), hardness in zip(places, (0.25, 0.4, 0.3, 0.5), strict=True):
        for kappa in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0):
            rho = float(np.exp(-hardness * kappa**0.8))
            kept = float(np.exp(-0.7 * hardness * kappa**0.8))
            rows.append(
                {
                    "gradient": gradient,
                    "point": point,
                    "kappa": kappa,
                    "envelope_ratio": rho,
                    "rho_w": rho,
                    "interference_ratio": 1.2 * rho,
                    "selectivity": kept / rho,
                    "selectivity_permuted": 1.01,
                    "retention_l1": kept,
                }
            )
    write_csv(folder / "table.csv", rows)
    summary = {
        "claim": "the masks shrink the interference envelope by rho_w",
        "measurement": "A(M)/A(1) on the measure slice, for seven kappas",
        "verdict": "holds",
        "identity_error": 1.2e-7,
    }
    write_json(folder / "summary.json", summary)


def _pci_trace(folder: Path, source: np.random.Generator) -> None:
    rows = []
    for eta in (1e-3, 1e-2):
        for model in ("natural", "robust"):
            for inputs, size in (("clean", 1e-4), ("adversarial", 1e-2)):
                predicted = size * source.standard_normal(30) * np.exp(source.standard_normal(30))
                for i, value in enumerate(predicted):
                    measured = float(value * (1 + 0.2 * source.standard_normal()))
                    row = {"model": model, "inputs": inputs, "eta": eta, "id": str(i)}
                    rows.append(row | {"pci": measured, "trace_over_2p": float(value), "p": 0.4})
    write_csv(folder / "table.csv", rows)
    fits = [
        {"eta": 1e-3, "spearman": 0.71, "slope": 0.88, "r2": 0.6},
        {"eta": 1e-2, "spearman": 0.93, "slope": 1.04, "r2": 0.9},
    ]
    summary = {
        "claim": "PCI is half the weighted trace over p",
        "measurement": "antithetic pairs against Hutchinson probes, 60 images",
        "verdict": "undecided",
        "eta": 1e-2,
        "spearman": 0.93,
        "spearman_ci95": [0.9, 0.95],
        "slope": 1.04,
        "r2": 0.9,
        "by_eta": fits,
    }
    write_json(folder / "summary.json", summary)
