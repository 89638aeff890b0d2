"""The guides, the library's page and the example, run as they are printed."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import pistole
from pistole.files import read_json
from pistole.params import CHECKS, load_params
from tests.conftest import write_wds_folder
from tests.e2e.following import follow
from tests.e2e.micro import ROOT, inside, status
from tests.e2e.own_clip import build, write_clip, write_images


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Path]:
    """A folder of one's own, with tiny checkpoints."""
    write_clip(tmp_path)
    with inside(tmp_path):
        yield tmp_path


def one_thread(values: dict[str, Any]) -> None:
    values["threads"] = 1


def test_merge_two_checkpoints_i_have(mine):
    write_images(train=10, test=2)
    names = follow("docs/guides/merge-checkpoints.md", adapt=one_thread)
    merged = load_file("artifacts/merged/pistole/visual.safetensors")
    found = names["model"].visual.state_dict()
    assert all(torch.equal(found[name], value) for name, value in merged.items())
    assert not torch.equal(merged["proj"], load_file("my-clip/natural.safetensors")["proj"])
    assert read_json("artifacts/merged/pistole/recipe.json")["lambda"] == 0.3
    assert load_file("ties.safetensors").keys() == load_file("my-clip/base.safetensors").keys()


def test_evaluate_my_robust_clip_on_my_folder_of_images(mine, capsys):
    write_images(test=3)
    follow("docs/guides/evaluate-folder.md", adapt=one_thread)
    assert re.search(r"^clean [\d.]+%, under attack [\d.]+%$", capsys.readouterr().out, re.M)
    means = read_json("mine.json")
    assert 0 <= means["robust_mean"] <= means["clean_mean"] <= 1
    assert Path("birds.png").is_file()
    model = read_json("artifacts/base/model.json")
    assert read_json("artifacts/evaluation/mine/summary.json")["digest"] != model["digest"]


def test_the_librarys_page(capsys):
    example = runpy.run_path(str(ROOT / "examples/merge_in_memory.py"))
    table = {name: sum(row) for name, row in example["table"].items()}
    assert table["merged"] > table["base"]
    assert "merged   clean" in capsys.readouterr().out
    base = example["base"]
    names = {
        "tower": base.visual,
        "text_features": base.text_features,
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "image_size": base.image_size,
        "natural": example["natural"],
        "robust": example["robust"],
        "loader": [example["pictures"](16)],
        "images": example["x"],
        "labels": example["y"],
    }
    names = follow("docs/library.md", **names)
    assert isinstance(names["merged"], pistole.ZeroShotClassifier)
    assert 0 < names["accuracy"] <= 1
    assert names["settings"].kappa == 4


def small(values: dict[str, Any]) -> None:
    """Make what the page's YAML leaves to the profile a matter of seconds."""
    one_thread(values)
    values["slices"] = {"finetune": 1, "score": 8, "measure": 8, "select": 8, "test": 8}
    values["data"]["resolution"] = 32
    steps, one = {"steps": 2, "restarts": 1}, {"steps": 1, "alpha": "1/255", "init": "uniform_eps"}
    values["attack"].update(calibration=one, select=one)
    values["attack"]["evaluate"].update(apgd_ce=steps, apgd_t=steps | {"targets": 1}, ladder=0)
    values["attack"]["evaluate"]["radii"] = []
    values["finetune"]["natural"]["batch_size"] = values["finetune"]["robust"]["batch_size"] = 1
    values["select"]["grid"] = values["frontier"]["grid"] = [0, 1]
    values["frontier"]["images"] = values["report"]["gallery"] = 2
    theory = values["theory"]
    theory["interference"].update(kappas=[0, 2], gammas=[0.5], qs=[1], lambdas=[0, 1], resamples=2)
    theory["pci_trace"] = {"samples": 4, "etas": [0.01], "pairs": 1, "probes": 1}
    theory["merge_path"].update(methods=["pistole"], samples=4, lambdas=[0, 1], probes=1)
    theory["merge_path"].update(iterations=2, pairs=1)
    theory["agreement"] = {"radii": [0, "2/255"]}
    theory["linear_frontier"] = {"resamples": 20}
    theory["conflict_map"]["samples"] = 8
    values["report"]["bootstrap"] = 100


def test_the_whole_pipeline_by_hand(mine, capsys):
    """The section of usage.md: no DVC, no git, one's own model and data."""
    page, own = "docs/usage.md", "## Your own model and data"
    for task in ("birds", "cars"):
        write_wds_folder(mine / "my-data" / task, classes=3, per_class=12, width=40, height=32)
    assert status("profile", "use", "tiny-imagenet") == 0
    follow(page, own, kinds=("yaml",), adapt=small)
    names = follow(page, "### The same by hand", model=build())
    assert "PISTOLE" in capsys.readouterr().out
    metrics = read_json("run/report/metrics.json")
    assert set(metrics["theory"]) == set(CHECKS)
    assert metrics["models"].keys() == load_params(Path("params.yaml")).models.keys()
    assert metrics["frontier"].keys() == {"wise_ft", "vanilla", "gism", "pistole"}
    recipe = read_json("run/merged/pistole/recipe.json")
    assert recipe["lambda"] == 0.2
    shown = read_json("run/gallery/gallery.json")["tasks"]["birds"]["models"]
    assert set(shown) == {"base", "natural", "robust", "vanilla", "pistole"}
    merged = load_file("run/merged/pistole/visual.safetensors")
    assert torch.equal(names["model"].visual.state_dict()["proj"], merged["proj"])
