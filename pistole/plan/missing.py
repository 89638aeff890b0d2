"""What a run needs and does not find: weights, data, a device, room on the disk."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache

from pistole.data.remote import is_url
from pistole.models import EMBEDDED
from pistole.models.offshelf import HUB
from pistole.params import SOURCES, Params
from pistole.stages.sources import source_of

# The files that open_clip looks for in a repository, the safe one first.
HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
URL_CACHE = Path("~/.cache/clip")


def missing(params: Params, needed: int, folder: Path) -> list[str]:
    """List what is not there.

    Args:
        params: of the run.
        needed: bytes that the run needs on the disk.
        folder: the project's folder, where it will write.

    Returns:
        One line per thing, with what to do.
    """
    return [
        *_weights(params),
        *_checkpoints(params),
        *_data(params),
        *_machine(params, needed, folder),
    ]


def _weights(params: Params) -> Iterator[str]:
    base = params.base
    if base.kind == "embedded":
        path = EMBEDDED / "embedded.safetensors"
        if not path.is_file():
            yield f"base: {path} does not exist: make it with `pistole pretrain`"
        return
    model, tag = base.model or "", base.pretrained or ""
    if Path(tag).is_file():
        return
    if model.startswith(HUB):
        if not in_hub_cache(model.removeprefix(HUB)):
            yield f"base: the weights of {model} are not in the Hugging Face cache: fetch them"
        return
    known = {} if model.endswith(".json") else _tagged(model, tag)
    if not known:
        yield f"base.pretrained: {tag!r} is no file and no tag of {model}: give the weights' path"
    elif not _tag_cached(known):
        yield (
            f"base: the weights of {model} ({tag}) are not in the cache: they are fetched when "
            "stage base runs, which needs the network"
        )


def _tagged(model: str, tag: str) -> dict:
    import open_clip  # takes seconds to import

    return open_clip.get_pretrained_cfg(model, tag)


def _tag_cached(known: dict) -> bool:
    if known.get("hf_hub"):
        repository, name = os.path.split(known["hf_hub"])
        return in_hub_cache(repository, name)
    return (URL_CACHE.expanduser() / Path(known["url"]).name).is_file()


def in_hub_cache(repository: str, name: str = "") -> bool:
    """Tell whether a repository's weights were fetched before.

    Args:
        repository: OWNER/NAME.
        name: file of the weights; empty for those that open_clip looks for.

    Returns:
        True if one of the files is in the Hugging Face cache.
    """
    names = (name,) if name else HUB_WEIGHTS
    return any(isinstance(try_to_load_from_cache(repository, file), str) for file in names)


def _checkpoints(params: Params) -> Iterator[str]:
    for source in SOURCES:
        path, place = getattr(params.finetune, source).checkpoint, f"finetune.{source}.checkpoint"
        if path is None:
            continue
        if path.startswith(HUB):
            if not in_hub_cache(path.removeprefix(HUB)):
                yield f"{place}: {path} is not in the Hugging Face cache: it has to be fetched"
        elif not Path(path).is_file():
            yield f"{place}: {path} does not exist: give the weights' path"


def _data(params: Params) -> Iterator[str]:
    absent = {"train": [], "test": []}
    for name in params.datasets:
        source = source_of(params.data, name)
        for split in ("train", "test") if name == params.data.finetune else ("test",):
            if source.layout in ("wds", "folder") and not is_url(source.root):
                if not (Path(source.root) / split).is_dir():
                    absent[split].append(name)
            elif source.layout == "torchvision" and not Path(source.root).is_dir():
                absent[split].append(name)
    for split, names in absent.items():
        if names:
            yield f"data: no folder of split {split} in {params.data.root} for {', '.join(names)}"


def _machine(params: Params, needed: int, folder: Path) -> Iterator[str]:
    if params.device == "cuda" and not torch.cuda.is_available():
        yield "device: cuda, but no CUDA device is visible here"
    free = shutil.disk_usage(folder).free
    if needed > free:
        yield f"disk: {needed / 2**30:.0f} GiB are needed, {free / 2**30:.0f} GiB are free here"
