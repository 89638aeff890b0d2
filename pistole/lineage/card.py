"""A model card of a merged model, with the metadata that the Hugging Face hub reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pistole.errors import UserError, require_choice
from pistole.files import read_json, sha256_file
from pistole.lineage import lockfile, receipts
from pistole.lineage.drawing import TEMPLATES
from pistole.lineage.hashing import files_of
from pistole.lineage.trace import trace

if TYPE_CHECKING:
    from pistole.params import Params

TAGS = ["clip", "merge", "adversarial-robustness", "pistole"]
MEASURES = ("clean", "robust")


def write_card(
    root: str | Path, params: "Params", name: str, base_model: str | None, license_name: str | None
) -> str:
    """Write the model card of a row of the report.

    Args:
        root: the project's folder.
        params: ``models`` and ``base`` are read.
        name: row of ``models`` whose model is merged.
        base_model: the base's name on the hub; None takes it from ``base``.
        license_name: licence of the model as the hub names it; None leaves it out.

    Returns:
        Markdown with a YAML head.

    Raises:
        UserError: the row is unknown or its model is not merged, or a result is missing.
    """
    root = Path(root).resolve()
    require_choice("model", name, params.models)
    folder = params.models[name]
    found = trace(root, folder)
    if not (root / folder / "recipe.json").is_file():
        raise UserError(
            f"{folder} is no merged model: choose a row of models that stage merge wrote"
        )
    if found.notes:
        raise UserError(found.notes[0])
    metrics = read_json(root / "report/metrics.json")
    numbers = metrics["models"].get(name)
    if numbers is None:
        raise UserError(f"report/metrics.json has no model {name}: dvc repro report")
    (stage,) = found.first
    entry = lockfile.read(root)[stage]
    base = base_model or _base_name(params)
    receipt = receipts.find(root, stage, lockfile.key_of(entry))
    return _render(
        metadata=_metadata(name, base, license_name, numbers),
        name=name,
        folder=folder,
        recipe=read_json(root / folder / "recipe.json"),
        files=_digests(root, folder),
        rows=_rows(numbers),
        attack=_attack(root, name, pooled="transfer" in metrics),
        stage=stage,
        cmd=" && ".join(entry["cmd"]),
        receipt=receipt,
        version=receipt["environment"]["versions"]["pistole"] if receipt else "",
        sources={
            row["path"]: row["md5"]
            for about in found.stages.values()
            for row in about["inputs"]
            if not row["from"] and not row["path"].endswith(".py")
        },
    )


def _base_name(params: "Params") -> str:
    """Name the base as the hub does, if it is from there."""
    name = params.base.model or params.base.kind
    return name.removeprefix("hf-hub:") if name.startswith("hf-hub:") else Path(name).stem


def _metadata(name: str, base: str, license_name: str | None, numbers: Mapping[str, Any]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="zero-shot-image-classification",
            dataset_type=task,
            dataset_name=task,
            metric_type="accuracy",
            metric_name=f"{measure} accuracy",
            metric_value=value,
        )
        for measure in MEASURES
        for task, value in numbers[measure].items()
    ]
    card = ModelCardData(
        model_name=name,
        eval_results=results,
        base_model=base,
        base_model_relation="merge",
        library_name="open_clip",
        pipeline_tag="zero-shot-image-classification",
        license=license_name,
        tags=TAGS,
    )
    return card.to_yaml().strip()


def _digests(root: Path, folder: str) -> dict[str, str]:
    files = sorted(files_of(root, folder))
    return {file.relative_to(root / folder).as_posix(): sha256_file(file) for file in files}


def _rows(numbers: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for task, images in numbers["n"].items():
        row = {"task": task, "n": images}
        for measure in MEASURES:
            low, high = numbers["ci95"][measure][task]
            row[measure] = f"{numbers[measure][task]:.3f} [{low:.3f}, {high:.3f}]"
        rows.append(row)
    mean = {"task": "mean", "n": sum(numbers["n"].values())}
    for measure in MEASURES:
        low, high = numbers["ci95"][f"{measure}_mean"]
        mean[measure] = f"{numbers[f'{measure}_mean']:.3f} [{low:.3f}, {high:.3f}]"
    return [*rows, mean]


def _attack(root: Path, name: str, *, pooled: bool) -> str:
    attack = read_json(root / f"artifacts/evaluation/{name}/summary.json")["attack"]
    parts = [
        f"{part} ({', '.join(f'{value} {key}' for key, value in knobs.items())})"
        for part, knobs in attack.items()
        if isinstance(knobs, Mapping)
    ]
    more = ", then the adversarial images found for the other models" if pooled else ""
    told = f"{' and '.join(parts)}, norm {attack['norm']}, radius {attack['eps']:.5f} in [0, 1]"
    return told + more


def _render(**values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template("card.md").render(**values)
