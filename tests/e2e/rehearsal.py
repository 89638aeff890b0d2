"""The paper's scale at a size that a test can run: a real tower, random weights, few images."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from pistole.models.towers import build_clip
from pistole.stages import prepare, stability
from pistole.stages.theory import conflict_map
from pistole.theory.heads import attentions
from tests.e2e.micro import ROOT

MODEL = "ViT-B-32-quickgelu"
TASKS = ("birds", "cars2")  # names of no registered dataset, which would have its own classes
MERGES = ("vanilla", "pistole", "fisher")
MODELS = {"robust": "artifacts/checkpoints/robust", "pistole": "artifacts/merged/pistole"}
ONE = {"steps": 1, "alpha": "1/255", "init": "gaussian_0.001"}
REHEARSED = {
    "threads": 1,
    "device": "cpu",
    "base.pretrained": "random.safetensors",
    "data.root": "data",
    "data.resolution": 224,
    "data.finetune": TASKS[0],
    "datasets": list(TASKS),
    "slices": {"finetune": 1, "score": 2, "measure": 4, "select": 1, "test": 2},
    "attack.train": {**ONE, "loss": "ce"},
    "attack.calibration": ONE,
    "attack.select": ONE,
    "attack.evaluate.apgd_ce.steps": 1,
    "attack.evaluate.apgd_t.steps": 1,
    "attack.evaluate.apgd_t.targets": 1,
    "attack.evaluate.radii": ["3/255"],
    "attack.evaluate.ladder": 0,  # 42 gradients and 109 predictions of every image
    "finetune.natural.steps": 1,
    "finetune.natural.batch_size": 1,
    "finetune.robust.steps": 1,
    "finetune.robust.batch_size": 1,
    "stability.K": 1,
    "stability.pci.pairs": 2,
    "methods": list(MERGES),
    "models": MODELS,
    "prepare.run": ["fisher"],
    "prepare.images": 2,
    "prepare.batch_size": 2,
    "select.grid": [0, 1],
    "frontier.methods": ["vanilla"],
    "frontier.grid": [0, 1],
    "frontier.images": 1,
    "theory.interference.kappas": [0, 2],
    "theory.interference.gammas": [0.5],
    "theory.interference.qs": [0.999],
    "theory.interference.cap_modes": ["renorm"],
    "theory.interference.lambdas": [0, 1],
    "theory.interference.resamples": 2,
    "theory.pci_trace.samples": 3,
    "theory.pci_trace.etas": [0.005],
    "theory.pci_trace.pairs": 1,
    "theory.pci_trace.probes": 1,
    "theory.merge_path.methods": ["pistole"],
    "theory.merge_path.samples": 2,
    "theory.merge_path.lambdas": [0],
    "theory.merge_path.probes": 1,
    "theory.merge_path.iterations": 2,
    "theory.merge_path.pairs": 1,
    "theory.agreement.radii": [0, "2/255"],
    "theory.conflict_map.samples": 4,
    "theory.linear_frontier.resamples": 20,
    "report.bootstrap": 100,
}


def write_rehearsal(folder: Path, write_wds: Callable[..., Path], **changes: Any) -> Path:
    """Write params.yaml, random weights and two folders of 2 classes x 4 images per split."""
    import open_clip
    from safetensors.torch import save_file

    yaml = YAML()
    values = yaml.load(ROOT / "profiles/imagenet-vitb32.yaml")
    for key, value in {**REHEARSED, **changes}.items():
        place = values
        *parents, leaf = key.split(".")
        for parent in parents:
            place = place[parent]
        place[leaf] = value
    yaml.dump(values, folder / "params.yaml")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = open_clip.get_model_config(MODEL)
        clip = open_clip.CLIP(**config)
    assert type(build_clip(config, MODEL)) is type(clip)
    state = {name: value.half() for name, value in clip.state_dict().items()}
    save_file(state, folder / "random.safetensors")
    for task in TASKS:
        write_wds(folder / "data" / task, classes=2, per_class=4, shards=1, width=48, height=40)
    return folder


@contextlib.contextmanager
def less_of_the_tower() -> Iterator[None]:
    """Leave out what a tower of this size makes dear.

    ``conflict_map`` only does one layer. What two stages tell the C library is not told here: one
    process runs all stages, and the later ones would map and unmap every large tensor.
    """
    with pytest.MonkeyPatch.context() as patch:
        for stage in (prepare, stability):
            patch.setattr(stage, "give_back_freed_tensors", lambda: None)
        patch.setattr(conflict_map, "attentions", lambda visual: attentions(visual)[-1:])
        yield


def commands() -> list[list[str]]:
    """Every kind of stage, in an order in which they can run."""
    from pistole.params import CHECKS

    sources = ("natural", "robust")
    return [
        ["params", "--check", "params.yaml", "--out", "artifacts/params.ok"],
        *(["data", "index", task] for task in TASKS),
        ["base"],
        *([stage, s] for stage in ("finetune", "vectors", "stability") for s in sources),
        ["masks"],
        ["prepare", "fisher"],
        ["select"],
        *(["merge", method] for method in MERGES),
        *(["evaluate", name, "--model", place] for name, place in MODELS.items()),
        ["transfer"],
        ["frontier", "vanilla"],
        *(["theory", check] for check in CHECKS),
        ["gallery"],
        ["report"],
    ]
