"""What a run lacks, told before it starts."""

from pathlib import Path

import pytest
from params_text import TEXT
from ruamel.yaml import YAML

from pistole.params import Params
from pistole.plan import missing as module
from pistole.plan.missing import missing

ROOM = 10**6


def params_of(**sections: dict) -> Params:
    raw = YAML(typ="safe", pure=True).load(TEXT)
    for name, values in sections.items():
        raw[name] = raw[name] | values if isinstance(values, dict) else values
    return Params.model_validate(raw)


def real_images(root: Path, **base: object) -> Params:
    base = {"kind": "open_clip", "model": "ViT-L-14-quickgelu", "pretrained": "openai"} | base
    data = {"root": str(root), "layout": "wds", "finetune": "birds"}
    return params_of(base=base, data=data, datasets=["birds", "cars"])


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """The Hugging Face cache, as a set of (repository, file)."""
    cached: set[tuple[str, str]] = set()
    found = lambda repository, file: file if (repository, file) in cached else None  # noqa: E731
    monkeypatch.setattr(module, "try_to_load_from_cache", found)
    monkeypatch.setattr(module, "URL_CACHE", tmp_path / "no cache")
    return cached


def test_the_embedded_world_lacks_nothing(tmp_path: Path):
    assert missing(params_of(), ROOM, tmp_path) == []


def test_weights_data_and_checkpoints_are_named(tmp_path: Path):
    params = real_images(tmp_path)
    robust = params.finetune.robust.model_copy(update={"checkpoint": "hf-hub:chs20/fare2-clip"})
    natural = params.finetune.natural.model_copy(update={"checkpoint": "absent.safetensors"})
    fine = params.finetune.model_copy(update={"robust": robust, "natural": natural})
    found = missing(params.model_copy(update={"finetune": fine}), ROOM, tmp_path)
    assert [line.partition(":")[0] for line in found] == [
        "base",
        "finetune.natural.checkpoint",
        "finetune.robust.checkpoint",
        "data",
        "data",
    ]
    assert "ViT-L-14-quickgelu (openai)" in found[0]
    assert found[3] == f"data: no folder of split train in {tmp_path} for birds"
    assert found[4] == f"data: no folder of split test in {tmp_path} for birds, cars"


def test_what_is_there_is_not_missing(tmp_path: Path, empty_cache: set[tuple[str, str]]):
    empty_cache.add(("timm/vit_large_patch14_clip_224.openai", "open_clip_model.safetensors"))
    for place in ("birds/train", "birds/test", "cars/test"):
        (tmp_path / place).mkdir(parents=True)
    assert missing(real_images(tmp_path), ROOM, tmp_path) == []


def test_a_weights_file_needs_no_cache(tmp_path: Path):
    weights = tmp_path / "own.safetensors"
    weights.write_bytes(b"")
    lines = missing(real_images(tmp_path, pretrained=str(weights)), ROOM, tmp_path)
    assert not any(line.startswith("base") for line in lines)
    lines = missing(real_images(tmp_path, pretrained="nowhere"), ROOM, tmp_path)
    assert lines[0].startswith("base.pretrained: 'nowhere' is no file and no tag")


def test_a_full_disk_and_an_absent_device_are_told(tmp_path: Path):
    lines = missing(params_of(device="cuda"), 10**18, tmp_path)
    assert any(line.startswith("disk: 931322575 GiB are needed") for line in lines)
    import torch

    assert any("no CUDA device" in line for line in lines) != torch.cuda.is_available()
