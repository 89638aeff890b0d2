"""The guides, the library's page and the example, run as they are printed."""

import json
import re
import runpy
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file

import pistole
from pistole.files import read_json
from tests.conftest import picture
from tests.e2e.micro import ROOT, inside, status

FENCE = re.compile(r"^```(console|yaml|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONFIG = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}
BIRDS = ("blue_jay", "great_auk", "kiwi", "robin")


def changed(values: dict, changes: dict) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            changed(values[key], value)
        else:
            values[key] = value


def follow(page: str) -> dict:
    """Do what a page says, block by block; return the names of its Python."""
    names: dict = {}
    yaml = YAML()
    for kind, text in FENCE.findall((ROOT / "docs" / page).read_text()):
        if kind == "yaml":
            values = yaml.load(Path("params.yaml"))
            changed(values, yaml.load(text))
            yaml.dump(values, Path("params.yaml"))
        elif kind == "python":
            exec(compile(text, page, "exec"), names)
        lines = re.findall(r"^\$ (.*)$", text.replace("\\\n", " "), re.MULTILINE)
        for line in lines if kind == "console" else ():
            program, *arguments = shlex.split(line)
            if program == "pistole":
                assert status(*arguments) == 0, line
            else:
                subprocess.run([program, *arguments], check=True)
    return names


def clip(seed: int) -> dict[str, torch.Tensor]:
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return open_clip.CLIP(**CONFIG).state_dict()


@pytest.fixture
def mine(tmp_path: Path) -> Callable[..., None]:
    """A folder with tiny checkpoints and images, as the guides want them."""
    (tmp_path / "my-clip").mkdir()
    config = {**CONFIG, "mean": [0.5] * 3, "std": [0.25] * 3}
    (tmp_path / "my-clip/base.json").write_text(json.dumps(config))
    base = clip(0)
    save_file(base, tmp_path / "my-clip/base.safetensors")
    source = torch.Generator().manual_seed(1)
    for name in ("natural", "robust"):
        tower = {
            key.removeprefix("visual."): value + 0.02 * torch.randn(value.shape, generator=source)
            for key, value in base.items()
            if key.startswith("visual.")
        }
        save_file(tower, tmp_path / f"my-clip/{name}.safetensors")
    (tmp_path / "profiles").symlink_to(ROOT / "profiles")

    def images(**per_class: int) -> None:
        for split, count in per_class.items():
            for number in range(count * len(BIRDS)):
                kind = BIRDS[number % len(BIRDS)]
                file = tmp_path / "my-data/birds" / split / kind / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(picture(len(split) * 1000 + number, 16, 16))

    with inside(tmp_path):
        yield images


def test_merge_two_checkpoints_i_have(mine):
    mine(train=10, test=2)
    names = follow("guides/merge-checkpoints.md")
    merged = load_file("artifacts/merged/pistole/visual.safetensors")
    found = names["model"].visual.state_dict()
    assert all(torch.equal(found[name], value) for name, value in merged.items())
    assert not torch.equal(merged["proj"], load_file("my-clip/natural.safetensors")["proj"])
    assert read_json("artifacts/merged/pistole/recipe.json")["lambda"] == 0.3
    assert load_file("ties.safetensors").keys() == load_file("my-clip/base.safetensors").keys()


def test_evaluate_my_robust_clip_on_my_folder_of_images(mine, capsys):
    mine(test=3)
    follow("guides/evaluate-folder.md")
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
    for kind, text in FENCE.findall((ROOT / "docs/library.md").read_text()):
        assert kind == "python"
        exec(compile(text, "library.md", "exec"), names)
    assert isinstance(names["merged"], pistole.ZeroShotClassifier)
    assert 0 < names["accuracy"] <= 1
    assert names["settings"].kappa == 4
