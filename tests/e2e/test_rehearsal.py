"""The paper's code path on a real ViT-B/32: every kind of stage once, with random weights.

Each stage's passes are held against the plan, so that what `pistole plan` says of the real run
rests on the real tower. Heads of one layer only are looked at, and ranks of 1-D tensors.
"""

import json
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from pistole.cli import app
from pistole.files import load_tensors, read_json
from pistole.params import CHECKS, load_params
from pistole.plan.stages import works_of
from pistole.plan.tower import read_tower
from pistole.plan.work import by_kind
from tests.conftest import write_wds_folder
from tests.e2e.micro import ROOT, SOURCES, inside
from tests.e2e.passes import counted
from tests.e2e.rehearsal import MODELS, TASKS, commands, less_of_the_tower, write_rehearsal

pytestmark = [pytest.mark.rehearsal, pytest.mark.timeout(3600)]
PARAMETERS = 87_849_216
EXACT = [
    *(f"{stage}@{source}" for stage in ("finetune", "stability") for source in SOURCES),
    *(f"theory@{check}" for check in CHECKS if check != "conflict_map"),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, int]]]:
    """The finished project, and the passes of every stage."""
    folder = write_rehearsal(tmp_path_factory.mktemp("rehearsal"), write_wds_folder)
    found = {}
    with inside(folder), less_of_the_tower():
        for command in commands():
            with counted() as passes:
                app(command, standalone_mode=False)
            found["@".join(command[:2])] = passes
    return folder, found


def test_every_kind_of_stage_is_rehearsed():
    with (ROOT / "dvc.yaml").open() as stream:
        stages = set(YAML(typ="safe", pure=True).load(stream)["stages"])
    assert {command[0] for command in commands()} == stages - {"pretrain"}


def test_the_base_is_the_real_tower(seen):
    folder, _ = seen
    record = read_json(folder / "artifacts/base/model.json")
    assert record["description"]["activation"] == "QuickGELU"
    assert record["description"]["parameters"] == PARAMETERS
    assert record["image_size"] == 224
    for task in TASKS:
        features = load_tensors(folder / f"artifacts/base/text/{task}.safetensors")[0]
        assert tuple(features["text_features"].shape) == (2, 512)


def test_vectors_and_masks_have_its_shapes_and_moved(seen):
    folder, _ = seen
    base, _ = load_tensors(folder / "artifacts/base/visual.safetensors")
    masks, _ = load_tensors(folder / "artifacts/masks/pistole.safetensors")
    for source in SOURCES:
        tau, _ = load_tensors(folder / f"artifacts/vectors/{source}.safetensors")
        assert {n: v.shape for n, v in tau.items()} == {n: v.shape for n, v in base.items()}
        assert any(torch.count_nonzero(value) for value in tau.values())
        assert all(masks[f"{source}/{name}"].shape == value.shape for name, value in tau.items())


@pytest.mark.parametrize("stage", EXACT)
def test_the_plan_counts_the_passes_of_the_real_tower(stage: str, seen):
    folder, found = seen
    params = load_params(folder / "params.yaml")
    with inside(folder):
        tower = read_tower(params)
    assert tower.parameters == PARAMETERS
    assert by_kind(works_of(stage, params, tower, {}, {}, bound=True)) == found[stage]


def test_the_report_has_every_row_and_check(seen):
    folder, _ = seen
    metrics = json.loads((folder / "report/metrics.json").read_text())
    assert set(metrics["models"]) == set(MODELS)
    assert set(metrics["theory"]) == set(CHECKS)
    assert all(set(row["robust"]) == set(TASKS) for row in metrics["models"].values())
