"""Make ``official_golden.safetensors``: what the authors' own functions give.

    python -m tests.parity.make_official_golden FOLDER && python -m tests.parity.merging_page

FOLDER holds the files of ``SOURCES``, which this project has no copies of (not all have a licence).
Their functions are taken without the modules around them, which import data sets and trackers. The
vectors are those of ``merging_golden.safetensors``; the file holds what they were merged to.
"""

import __future__

import ast
import contextlib
import io
import json
import sys
import typing
from abc import ABC
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from pistole.files import save_tensors
from tests.parity.merging_cases import Case, golden_inputs
from tests.parity.official_cases import OFFICIAL, OFFICIAL_FILE, SOURCES
from tests.unit.baselines_models import Params, flat, unflat


def definitions(path: Path) -> dict[str, Any]:
    """Functions and classes of a module or notebook, in a namespace of what they use."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
    tree = ast.parse(text)
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    names: dict[str, Any] = {"torch": torch, "Tensor": Tensor, "ABC": ABC}
    names |= {name: getattr(typing, name) for name in ("Optional", "Dict", "List")}
    names |= {"wandb": SimpleNamespace(log=lambda row: None), "ALL_DATASETS": ["nat", "rob"]}
    flags = __future__.annotations.compiler_flag  # one of the modules imports it
    exec(compile(tree, str(path), "exec", flags=flags), names)
    return names


def merged(case: Case, names: dict[str, Any], base: Params, vectors: list[Params]) -> Params:
    """The merged model by the functions of one source."""
    rows, options = torch.stack([flat(v).float() for v in vectors]), case.asked["options"]
    if case.asked["source"] == "ties":
        moved = names["ties_merging"](rows, **options)
    elif case.asked["source"] == "pcb":
        moved = names["PCB_merge"](rows, **options)[0]
    elif case.asked["source"] == "tall_masks":
        models, start = rows + flat(base).float(), flat(base).float()
        masks = names["generate_task_masks"](rows, models, start, tall_mask_lambda=options["lam"])
        moved = rows.sum(0) * (masks.sum(0) >= options["agree"])
    else:
        kind = names["TaskVectorMiddleKeep"]
        masked = [kind(vector=dict(v), **options).vector for v in vectors]
        moved = sum(flat(v).float() for v in masked)
    return unflat(flat(base).float() + moved, base)


def main() -> None:
    """Run the functions and write the file."""
    folder = Path(sys.argv[1])
    base, vectors = golden_inputs()
    tensors = {}
    for case in OFFICIAL:
        names = definitions(folder / Path(SOURCES[case.asked["source"]]["path"]).name)
        with contextlib.redirect_stdout(io.StringIO()):
            found = merged(case, names, base, vectors)
        tensors |= {f"result/{case.name}/merged/{k}": v for k, v in found.items()}
    command = "python -m tests.parity.make_official_golden FOLDER"
    made_by = {**SOURCES, "torch": torch.__version__.partition("+")[0]}
    save_tensors(OFFICIAL_FILE, tensors, {"made_by": made_by, "command": command})


if __name__ == "__main__":
    main()
