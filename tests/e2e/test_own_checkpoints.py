"""Merging outside any project, as the command line does it and as docs/usage.md shows it."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import pages
from tests.e2e.following import follow
from tests.e2e.micro import ROOT, inside, refusal

HEADING = "## Merging your own checkpoints"
SECTION = pages.section(ROOT / "docs/usage.md", HEADING)
NAMES = ("ViT-B-32.safetensors", "natural.safetensors", "robust.pt")
FOLDERS = ("clip-base", "clip-natural", "clip-robust")


@pytest.fixture
def place(tmp_path: Path, tiny_config: dict, monkeypatch) -> Iterator[Path]:
    """A folder with tiny models under the names of the page, and open_clip's of that size."""
    import open_clip

    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32", tiny_config)
    with torch.random.fork_rng(devices=[]), inside(tmp_path):
        for seed, name in enumerate(NAMES):
            torch.manual_seed(seed)
            state = open_clip.CLIP(**tiny_config).state_dict()
            if name.endswith(".pt"):
                torch.save({"state_dict": state}, name)
            else:
                save_file(state, name)
        yield tmp_path


def save_transformers(folder: str, seed: int) -> None:
    """A tiny CLIP of transformers."""
    from transformers import CLIPConfig, CLIPModel

    size = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    size["num_hidden_layers"] = 2
    config = CLIPConfig(
        vision_config={**size, "image_size": 16, "patch_size": 8},
        text_config={**size, "vocab_size": 50, "max_position_embeddings": 8, "eos_token_id": 49},
        projection_dim=8,
    )
    torch.manual_seed(seed)
    CLIPModel(config).save_pretrained(folder, max_shard_size="20KB" if seed == 1 else "1GB")


@pytest.fixture
def clips(place: Path) -> Path:
    for seed, folder in enumerate(FOLDERS):
        save_transformers(folder, seed)
    return place


def run(command: str) -> None:
    from pistole.cli import app

    app(shlex.split(command), standalone_mode=False)


def test_every_command_of_the_page_runs_as_it_stands(clips: Path, capsys):
    follow("docs/usage.md", HEADING)
    assert len(pages.fenced(SECTION)) >= 5
    recipe = json.loads("{" + capsys.readouterr().out.partition("\n{")[2])
    assert recipe["dtype"] == "float16"
    assert load_file("tower.safetensors")["proj"].dtype == torch.float16


def test_the_pages_way_to_convert_a_pickle(place: Path):
    """Of docs/usage.md, which shows it for a file that is a state dict and nothing else."""
    torch.save(torch.load("robust.pt")["state_dict"], "robust.pt")
    follow("docs/usage.md", "## Which weights are accepted", kinds=("python",))
    run(f"merge --method linear {COMMON} --model robust.safetensors")
    assert load_file("robust.safetensors").keys() == load_file("merged.safetensors").keys()


def test_the_command_of_the_readme(place: Path):
    for name in ("base", "a", "b"):
        source = NAMES[0] if name == "base" else NAMES[1]
        Path(f"{name}.safetensors").write_bytes(Path(source).read_bytes())
    follow("README.md", "## Bring your own model", kinds=("console",))
    merged, base = load_file("merged.safetensors"), load_file("base.safetensors")
    assert merged.keys() == base.keys()
    assert not torch.equal(merged["visual.proj"], base["visual.proj"])


def test_the_page_lists_the_methods():
    from pistole.stages.methods import RULES

    row = next(line for line in SECTION.splitlines() if line.startswith("| `--method"))
    assert set(re.findall(r"`(\w+)`", row)) == set(RULES)


COMMON = "--base ViT-B-32.safetensors --out merged.safetensors"


def test_open_clip_loads_the_merged_model_in_one_line(place: Path):
    import open_clip

    run(
        f"merge --method linear --weight 0.5 --weight 0.5 {COMMON} --model natural.safetensors "
        "--model robust.pt --allow-pickle --scope all"
    )
    loaded = open_clip.create_model("ViT-B-32", pretrained="merged.safetensors").state_dict()
    models = [load_file(NAMES[0]), load_file(NAMES[1]), torch.load(NAMES[2])["state_dict"]]
    assert loaded.keys() == models[0].keys()
    for name, value in loaded.items():
        base, one, two = (model[name] for model in models)
        assert torch.equal(value, base + 1.0 * (0.5 * (one - base) + 0.5 * (two - base))), name


def test_transformers_loads_the_merged_model_in_one_line(clips: Path):
    from transformers import CLIPModel

    run(
        "merge --method linear --weight 0.5 --weight 0.5 --base clip-base --model clip-natural "
        "--model clip-robust --out clip-merged"
    )
    assert Path("clip-natural/model.safetensors.index.json").exists()
    loaded, base, one, two = (
        CLIPModel.from_pretrained(folder).state_dict() for folder in ("clip-merged", *FOLDERS)
    )
    assert loaded.keys() == base.keys()
    for name, value in loaded.items():
        mean = base[name] + 1.0 * (0.5 * (one[name] - base[name]) + 0.5 * (two[name] - base[name]))
        assert torch.equal(value, mean if name.startswith("vis") else base[name]), name


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (f"merge --method linear {COMMON}", "nothing to merge: give --model or --vector"),
        (f"merge --method linear {COMMON} --model robust.pt", "robust.pt is a pickle"),
        (f"merge --method linear {COMMON} --model no.safetensors", "no.safetensors does not exist"),
        (f"merge --method lnear {COMMON} --model natural.safetensors", "did you mean 'linear'"),
        (f"merge pistole --method linear {COMMON}", "--method does not go with METHOD pistole"),
        (f"merge pistole {COMMON} --weight 1", "METHOD pistole, of params.yaml, does not go with"),
        (f"merge {COMMON}", "no method: name one of params.yaml, or merge checkpoints of your own"),
        ("merge --method linear --model natural.safetensors --out x.safetensors", "no base: give"),
        ("merge --method linear --model natural.safetensors --base robust.pt", "no place for the"),
        (f"merge pistole {COMMON} --no-hash", "does not go with --no-hash"),
        ("vectors", "no source: give natural or robust, or --model"),
        ("vectors natural --scope all", "SOURCE natural does not go with --scope"),
        (
            f"vectors natural --model natural.safetensors {COMMON}",
            "--model does not go with SOURCE",
        ),
        ("vectors --model natural.safetensors --base ViT-B-32.safetensors --out tau", "let it end"),
    ],
)
def test_a_mistake_ends_in_one_line_and_nothing_is_written(place, capsys, command, message):
    assert message in refusal(capsys, *command.split())


def test_a_model_of_another_size_or_with_nan_is_refused(place: Path, capsys):
    state = load_file("natural.safetensors")
    state["visual.conv1.weight"][0, 0, 0, 0] = float("nan")
    save_file(state, "nan.safetensors")
    save_file({**state, "visual.conv1.weight": torch.ones(2)}, "other.safetensors")
    (place / "cut.safetensors").write_bytes((place / "natural.safetensors").read_bytes()[:-1])
    for name, message in (
        ("nan", "nan.safetensors: tensor 'conv1.weight' is not finite"),
        ("other", "other.safetensors: tensor 'conv1.weight' has shape (2,), not"),
        ("cut", "cut.safetensors is truncated or not safetensors"),
    ):
        command = f"merge --method ties {COMMON} --model {name}.safetensors"
        assert message in refusal(capsys, *command.split())


def test_a_full_disk_ends_in_one_line_and_nothing_is_written(place: Path, capsys, monkeypatch):
    import errno
    import os

    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    line = refusal(capsys, *f"merge --method linear {COMMON} --model natural.safetensors".split())
    assert line == "merged.safetensors: No space left on device: nothing half-written was kept"
