"""Tiny checkpoints of one's own, and images to merge and to evaluate them with."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.conftest import picture
from tests.e2e.micro import ROOT

CONFIG = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}
BIRDS = ("blue_jay", "great_auk", "kiwi", "robin")


def build() -> Any:
    """The base, as open_clip makes it."""
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return open_clip.CLIP(**CONFIG)


def write_clip(folder: Path) -> None:
    """Write my-clip/ as the pages have it, and the profiles beside it."""
    (folder / "my-clip").mkdir()
    config = {**CONFIG, "mean": [0.5] * 3, "std": [0.25] * 3}
    (folder / "my-clip/base.json").write_text(json.dumps(config))
    base = build().state_dict()
    save_file(base, folder / "my-clip/base.safetensors")
    source = torch.Generator().manual_seed(1)
    for name in ("natural", "robust"):
        tower = {
            key.removeprefix("visual."): value + 0.02 * torch.randn(value.shape, generator=source)
            for key, value in base.items()
            if key.startswith("visual.")
        }
        save_file(tower, folder / f"my-clip/{name}.safetensors")
    (folder / "profiles").symlink_to(ROOT / "profiles")


def write_images(**per_class: int) -> None:
    """Write as many images of each bird into each split named, a folder per class."""
    for split, count in per_class.items():
        for number in range(count * len(BIRDS)):
            kind = BIRDS[number % len(BIRDS)]
            file = Path("my-data/birds") / split / kind / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(len(split) * 1000 + number, 16, 16))
