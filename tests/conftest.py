"""Small models, small data sets, and the research data where it is present."""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
# The models are too small to divide, and beside other work a second thread is waited for: many
# times the work. A test whose parameters set the number says so itself.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """A test whose parameters set the number of torch's threads does not set the next one's."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tiny_config() -> dict:
    """An open_clip config: ViT of 16 px and 2 blocks, text tower of 1 block."""
    return {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 16,
            "layers": 2,
            "width": 16,
            "head_width": 8,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 8,
            "vocab_size": 49408,
            "width": 8,
            "heads": 2,
            "layers": 1,
        },
    }


@pytest.fixture
def tiny_clip(tiny_config: dict) -> torch.nn.Module:
    """The model of ``tiny_config``, always with the same weights."""
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return open_clip.CLIP(**tiny_config).eval()


@pytest.fixture
def tiny_base_files(
    tmp_path: Path, tiny_config: dict, tiny_clip: torch.nn.Module
) -> tuple[Path, Path]:
    """Config (JSON, with mean and std) and weights (safetensors, fp16) of ``tiny_clip``."""
    from safetensors.torch import save_file

    config, weights = tmp_path / "tiny.json", tmp_path / "tiny.safetensors"
    config.write_text(json.dumps({**tiny_config, "mean": [0.5] * 3, "std": [0.25] * 3}))
    save_file({name: value.half() for name, value in tiny_clip.state_dict().items()}, weights)
    return config, weights


def picture(seed: int, width: int, height: int) -> bytes:
    """Noise as PNG."""
    source = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), generator=source, dtype=torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar_file(path: Path, files: dict[str, bytes] | list[tuple[str, bytes]]) -> None:
    """Write a tar from (name, content) pairs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def write_tar() -> Callable[[Path, dict[str, bytes] | list[tuple[str, bytes]]], None]:
    """A function that writes a tar from (name, content) pairs."""
    return write_tar_file


def write_wds_folder(
    root: Path,
    classes: int = 3,
    per_class: int = 4,
    shards: int = 2,
    width: int = 8,
    height: int = 8,
) -> Path:
    """Write a webdataset folder of noise images; sample ``i`` has label ``i % classes``."""
    for number, split in enumerate(("train", "test")):
        for shard in range(shards):
            files = {}
            for i in range(shard, classes * per_class, shards):
                files[f"s{i:07d}.cls"] = str(i % classes).encode()
                files[f"s{i:07d}.png"] = picture(1000 * number + i, width, height)
            write_tar_file(root / split / f"{shard}.tar", files)
        (root / split / "nshards.txt").write_text(f"{shards}\n")
    names = ["circle", "red square", "dog"] + [f"thing {i}" for i in range(classes)]
    (root / "classnames.txt").write_text("\n".join(names[:classes]) + "\n")
    templates = "a photo of a {c}.\na blurry photo of a {c}.\n"
    (root / "zeroshot_classification_templates.txt").write_text(templates)
    return root


@pytest.fixture
def write_wds() -> Callable[..., Path]:
    """A function that writes a webdataset folder of noise images.

    ``write_wds(root, classes=3, per_class=4, shards=2, width=8, height=8)`` returns ``root``;
    sample ``i`` of a split has label ``i % classes``.
    """
    return write_wds_folder


@pytest.fixture
def research_data() -> Path:
    """The folder of real data sets beside the repository; skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the research data (../shared/data) is absent")
    return SHARED
