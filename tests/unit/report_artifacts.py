"""Synthetic results of every stage before ``report``, as those stages write them."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import report_theory_records
import yaml
from report_files import write_csv, write_json
from safetensors.numpy import save_file

from pistole.params import Params
from pistole.report.tables import MAIN

PROFILE = Path(__file__).parents[2] / "profiles" / "demo.yaml"
TASKS = ("clutter", "digit")
IMAGES = 40
LEVELS = {  # model -> chance of being right when clean, and of surviving then
    "base": (0.80, 0.15),
    "natural": (0.86, 0.20),
    "robust": (0.74, 0.62),
    "wise_ft": (0.77, 0.58),
    "vanilla": (0.80, 0.55),
    "gism": (0.81, 0.57),
    "gism_pci": (0.82, 0.57),
    "gism_apt": (0.81, 0.59),
    "pistole": (0.83, 0.60),
    "wise_ft_matched": (0.79, 0.58),
    "uniform_shrink": (0.82, 0.57),
    "permuted_mask_1": (0.78, 0.57),
    "permuted_mask_2": (0.79, 0.56),
    "permuted_mask_3": (0.79, 0.57),
    "self_mask": (0.81, 0.52),
    "magnitude_mask": (0.825, 0.60),
    "random_score": (0.79, 0.56),
    "zero_nat": (0.84, 0.61),
}
LAMBDAS = {"wise_ft": 0.3, "vanilla": 0.4, "gism": 0.4, "gism_pci": 0.5, "gism_apt": 0.5}
PISTOLE_LAMBDA = 0.5  # which the controls take
MASKS = ("gism", "gism_pci", "gism_apt", "pistole", "magnitude", "random")
UNMASKED = ("wise_ft", "vanilla")
OWN = 0.12  # share of the images on which a row of ablation or controls has luck of its own
METHODS = tuple(name for name in LEVELS if name not in ("base", "natural", "robust"))
ATTACK = {"eps": 4 / 255, "apgd_ce": {"steps": 30, "restarts": 1}, "apgd_t": {"steps": 20}}


def make_params(**changes: object) -> Params:
    """The demo profile with two tasks and few resamples.

    Args:
        **changes: top-level keys to replace.

    Returns:
        Validated parameters.
    """
    raw = yaml.safe_load(PROFILE.read_text())
    raw |= {
        "datasets": list(TASKS),
        "report": {"bootstrap": 200, "reference": None, "gallery": 2},
    } | changes
    raw["attack"]["evaluate"] |= {
        "apgd_ce": {"steps": 30, "restarts": 1},
        "apgd_t": {"steps": 20, "restarts": 1, "targets": 5},
    }
    return Params.model_validate(raw)


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
    for method in METHODS:
        write_json(root / "merged" / method / "recipe.json", _recipe(method))
    for number, method in enumerate(("wise_ft", "vanilla", "gism", "pistole")):
        _curve(root, method, number, tasks)
    write_json(root / "select" / "lambda.json", {m: lambda_of(m) for m in sorted(METHODS)})
    grid = [{"method": "pistole", "lambda": 0.5, "clean": 0.8, "robust": 0.4}]
    write_csv(root / "select" / "grid.csv", grid)
    for name, objective in (("natural", "erm"), ("robust", "tecoa")):
        _source(root, name, objective, source)
    write_csv(root / "masks" / "statistics.csv", _mask_rows())
    _gallery(root / "gallery", tasks, source)
    for check, write in report_theory_records.CHECKS.items():
        write(root / "theory" / check)
    return root


def lambda_of(method: str) -> float:
    """The lambda of a merge."""
    return LAMBDAS.get(method, PISTOLE_LAMBDA)


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
    own, share = np.random.default_rng(list(name.encode())), 0 if name in MAIN else OWN
    for task, shared in hard.items():
        draws = np.where(own.random(shared.shape) < share, own.random(shared.shape), shared)
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
        "digest": hashlib.sha256(name.encode()).hexdigest(),
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
        "lambda": lambda_of(method),
        "rescale": "none",
        "variant": None if method in UNMASKED else variant_of(method),
        "base_digest": "b" * 64,
        "vectors": {"natural": "1" * 64, "robust": "2" * 64},
        "statistics": {
            "norm_natural": 1.62,
            "norm_robust": 2.41,
            "cosine": 0.21,
            "sign_agreement": 0.57,
        },
    }


def variant_of(method: str) -> str:
    """Which masks a merge has."""
    named = {"magnitude_mask": "magnitude", "random_score": "random"}
    return named.get(method, method if method in MASKS else "pistole")


def _training(name: str, objective: str) -> dict:
    return {
        "source": name,
        "objective": objective,
        "checkpoint": None,
        "base_digest": "b" * 64,
        "digest": name[0] * 64,
    }


def _curve(root: Path, method: str, number: int, tasks: tuple[str, ...]) -> None:
    rows = []
    for lam in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0):
        clean = 0.74 + (0.06, 0.12, 0.115, 0.125)[number] * lam
        robust = 0.47 - (0.32, 0.3, 0.285, 0.27)[number] * lam ** (1.2 + 0.4 * number)
        row = {"lambda": lam, "clean_mean": clean, "robust_mean": robust}
        shares = {"clean": clean, "robust": robust}
        rows.append(row | {f"{k}/{task}": v for k, v in shares.items() for task in tasks})
    write_csv(root / "frontier" / method / "frontier.csv", rows)
    ids = {task: [f"{task}/{i}" for i in range(1, 40, 2)] for task in tasks}
    summary = {"attack": {"eps": 4 / 255, "apgd_ce": {"steps": 30}}, "images": 20, "ids": ids}
    write_json(root / "frontier" / method / "summary.json", summary)


def _mask_rows() -> list[dict]:
    layers = ("conv1.weight", "blocks.0.attn.in_proj_weight", "blocks.0.mlp.c_fc.weight", "proj")
    rows = []
    for number, variant in enumerate(MASKS):
        for side, source in enumerate(("natural", "robust")):
            for place, layer in enumerate((*layers, "all")):
                mean = 0.3 + 0.05 * number + 0.02 * side + 0.04 * place
                kept = {"l1_retention": mean + 0.01, "l2_retention": mean + 0.03}
                where = {"variant": variant, "source": source, "layer": layer}
                rows.append(where | {"mean_mask": mean} | kept)
    return rows


def _source(root: Path, name: str, objective: str, source: np.random.Generator) -> None:
    write_json(root / "checkpoints" / name / "training.json", _training(name, objective))
    loss = 0.4 + 0.8 * np.exp(-np.arange(200) / 50) + 0.05 * source.standard_normal(200)
    curve = [{"step": i, "loss": float(v), "lr": 1e-4} for i, v in enumerate(loss)]
    write_csv(root / "checkpoints" / name / "curve.csv", curve)
    medians = {"gism": 0.36, "gism_pci": 0.44, "gism_apt": 0.71, "pistole": 0.78}
    summary = {
        "reliability": medians,
        "pci_reliability": [0.6, 0.7],
        "score_stat": "abs_mean",
        "forward_equivalents": 23040 if name == "natural" else 51234,
    }
    write_json(root / "stability" / name / "summary.json", summary)


def _gallery(folder: Path, tasks: tuple[str, ...], source: np.random.Generator) -> None:
    """Noise, on which every second answer changes."""
    models, count, shape = ("base", "natural", "robust", "vanilla", "pistole"), 2, (3, 16, 16)
    pixels, record = {}, {}
    for task in tasks:
        pixels[f"{task}/clean"] = source.integers(0, 256, (count, *shape), dtype=np.uint8)
        rows = {}
        for number, name in enumerate(models):
            for kind in ("adversarial", "perturbation"):
                noise = source.integers(0, 256, (count, *shape), dtype=np.uint8)
                pixels[f"{task}/{name}/{kind}"] = noise
            right = {"class": "red ring", "right": True, "probability": 0.7, "true_class": 0.7}
            wrong = {"class": "<blue>", "right": False, "probability": 0.6, "true_class": 0.2}
            after = [wrong if (number + i) % 2 else right for i in range(count)]
            rows[name] = {"before": [right] * count, "after": after}
        ids = [f"test/{i}" for i in range(count)]
        record[task] = {"ids": ids, "labels": ["red ring"] * count, "models": rows}
    attack = {"eps": 4 / 255, "steps": 10, "alpha": 1 / 255, "init": "gaussian_0.001"}
    write_json(folder / "gallery.json", {"attack": attack, "factor": 31, "tasks": record})
    save_file(pixels, folder / "images.safetensors")
