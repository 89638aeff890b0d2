"""Stage ``data@DATASET``: list the samples of every slice, with class names and digests."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from pistole.data.listing import readable_slices
from pistole.data.remote import is_url, verify_split
from pistole.data.tasks import open_task
from pistole.files import atomic_directory, save_tensors, sha256_tensors, write_json
from pistole.params import Params
from pistole.progress import track
from pistole.stages.sources import source_of

Listing = tuple[dict, dict[str, dict], dict[str, torch.Tensor]]  # index, slices, their images
TRAINING_SLICES = ("finetune", "score", "measure", "select")


def run(params: Params, name: str, out: Path) -> dict[str, float]:
    """List one dataset.

    Args:
        params: ``data``, ``slices`` and ``seed`` are read.
        name: dataset name.
        out: folder for ``index.json`` (names, prompts, place) and one folder per slice with its
            own ``index.json`` (ids, labels, digests, and the corrupt samples that were passed
            over) and, for the embedded world, ``images.safetensors``. A stage that reads one slice
            does not depend on the others.

    Returns:
        Number of listed images per slice.
    """
    sizes = {"test": params.slices.test}
    if name == params.data.finetune:
        sizes |= {split: getattr(params.slices, split) for split in TRAINING_SLICES}
    listing = _embedded if source_of(params.data, name).layout == "embedded" else _stored
    index, splits, images = listing(params, name, sizes)
    with atomic_directory(out) as folder:
        write_json(folder / "index.json", index)
        for split, part in splits.items():
            # What was passed over is no part of the slice.
            content = {key: value for key, value in part.items() if key != "corrupt"}
            blob = json.dumps([index["classnames"], content], sort_keys=True)
            digest = hashlib.sha256(blob.encode()).hexdigest()
            write_json(folder / split / "index.json", {**part, "digest": digest})
            if split in images:
                save_tensors(folder / split / "images.safetensors", {"images": images[split]})
    return {f"images_{split}": float(len(part["ids"])) for split, part in splits.items()}


def _embedded(params: Params, name: str, sizes: dict[str, int]) -> Listing:
    """Draw the pictures: training slices are consecutive stretches of one numbered stream."""
    from pistole.data.world.tasks import sample, task

    world, splits, images, start = task(name), {}, {}, 0
    for split, size in sizes.items():
        stream, first = ("test", 0) if split == "test" else ("train", start)
        start += 0 if split == "test" else size
        numbers = range(first, first + size)
        drawn = [sample(name, stream, number) for number in track(numbers, f"{name}/{split}")]
        images[split] = torch.from_numpy(np.stack([picture for picture, _ in drawn]))
        splits[split] = {
            "ids": [f"{stream}/{number:06d}" for number in numbers],
            "labels": [label for _, label in drawn],
            "sha256": sha256_tensors({"images": images[split]}),
        }
    about = {
        "name": name,
        "layout": "embedded",
        "root": "pistole/data/world",
        "resolution": None,
        "classnames": list(world.classnames),
        "templates": list(world.templates),
    }
    return about, splits, images


def _stored(params: Params, name: str, sizes: dict[str, int]) -> Listing:
    """List stored images; they stay where they are, the digest of each one's bytes is kept."""
    source = source_of(params.data, name)
    task = open_task(source)
    training = {slice_: size for slice_, size in sizes.items() if slice_ != "test"}
    slices = {}
    for split, wanted in (("test", {"test": sizes["test"]}), ("train", training)):
        if not wanted:
            continue
        part = task.split(split)
        if is_url(source.root):
            verify_split(source, split)
        listed = readable_slices(part, wanted, (params.seed, name), f"{name}/{split}")
        for slice_, (chosen, corrupt) in listed.items():
            slices[slice_] = {
                "ids": [part.ids[i] for i in chosen],
                "labels": [part.labels[i] for i in chosen],
                "sha256": part.digests(chosen),
                "corrupt": [part.ids[i] for i in corrupt],
            }
    about = {
        "name": name,
        "layout": source.layout,
        "root": source.root,
        "resolution": source.resolution,
        "names": source.names,
        "classnames": list(task.classnames),
        "templates": list(task.templates),
    }
    return about, slices, {}
