"""Merge with mergekit and peft, in an environment of their own (envs/parity.in).

    .venv-parity/bin/python tests/parity/run_packages.py FOLDER

FOLDER holds base, natural and robust.safetensors (models) and cases.json. Of every case it gets
CASE.safetensors: the merged tensors and, where the package draws, what each vector kept; and at the
end versions.json. mergekit is run through its command line; peft's functions are called.
"""

import importlib.metadata
import json
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Draws = list[tuple[tuple[int, ...], Tensor]]


def recorded(draws: Draws):
    """``torch.bernoulli`` that writes down what it draws."""
    plain = torch.bernoulli

    def bernoulli(*args, **kwargs) -> Tensor:
        mask = plain(*args, **kwargs)
        draws.append((tuple(mask.shape), mask.bool()))
        return mask

    return bernoulli


def by_mergekit(folder: Path, case: dict) -> dict[str, Tensor]:
    """Run ``mergekit-pytorch CONFIG OUT``."""
    from mergekit.scripts.merge_raw_pytorch import main

    models = [
        {"model": str(folder / f"{side}.safetensors"), "parameters": own}
        for side, own in zip(("natural", "robust"), case["models"], strict=True)
    ]
    config = {"merge_method": case["method"], "models": models, "dtype": "float32"}
    if case.get("base"):
        config["base_model"] = str(folder / f"{case['base']}.safetensors")
    if case.get("parameters"):
        config["parameters"] = case["parameters"]
    written, out = folder / f"{case['name']}.yaml", folder / case["name"]
    written.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    main.main([str(written), str(out)], standalone_mode=False)
    return load_file(out / "model.safetensors")


def by_peft(folder: Path, case: dict) -> dict[str, Tensor]:
    """Call a function of ``peft.utils.merge_utils`` on each tensor, or on all of them as one."""
    from peft.utils import merge_utils

    base, *models = (load_file(folder / f"{n}.safetensors") for n in ("base", "natural", "robust"))
    names = sorted(base)
    vectors = [{n: model[n] - base[n] for n in names} for model in models]
    if case.get("whole"):
        vectors = [{"": torch.cat([v[n].flatten() for n in names])} for v in vectors]
    function, weights = getattr(merge_utils, case["method"]), torch.tensor(case["weights"])
    merged = {}
    for name in vectors[0]:
        rows = [v[name] for v in vectors][: len(weights)]
        merged[name] = function(rows, weights, **case.get("parameters", {}))
    if case.get("whole"):
        parts = merged[""].split([base[n].numel() for n in names])
        merged = {n: part.reshape(base[n].shape) for n, part in zip(names, parts, strict=True)}
    return {n: base[n] + merged[n] for n in names}


def main() -> None:
    """Run every case."""
    folder, plain = Path(sys.argv[1]), torch.bernoulli
    warnings.simplefilter("ignore")
    for case in json.loads((folder / "cases.json").read_text(encoding="utf-8")):
        draws: Draws = []
        torch.bernoulli = recorded(draws)
        torch.manual_seed(0)
        package = {"mergekit": by_mergekit, "peft": by_peft}[case["package"]]
        found = {f"merged/{name}": value for name, value in package(folder, case).items()}
        torch.bernoulli = plain
        # No two tensors have one shape, and the vectors are drawn in their order.
        shapes = {tuple(v.shape): k.removeprefix("merged/") for k, v in found.items()}
        seen: dict[str, int] = {}
        for shape, mask in draws:
            name = shapes[shape]
            found[f"kept/{seen.setdefault(name, 0)}/{name}"] = mask
            seen[name] += 1
        save_file(
            {k: v.contiguous() for k, v in found.items()}, folder / f"{case['name']}.safetensors"
        )
    names = ("mergekit", "peft", "torch")
    versions = {name: importlib.metadata.version(name) for name in names}
    (folder / "versions.json").write_text(json.dumps(versions), encoding="utf-8")


if __name__ == "__main__":
    main()
