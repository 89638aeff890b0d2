"""Tiny checkpoints as users have them: an open_clip model, its tower alone, transformers' CLIP."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]
OPEN_CLIP = {  # whole model: visual tower, text tower, and what no merge touches
    "visual.conv1.weight": (4, 3, 2, 2),
    "visual.proj": (4, 5),
    "visual.ln_post.bias": (4,),
    "visual.scale": (),
    "positional_embedding": (3, 4),
    "ln_final.weight": (4,),
    "logit_scale": (),
}
TRANSFORMERS = {
    "vision_model.embeddings.class_embedding": (4,),
    "vision_model.encoder.layers.0.self_attn.q_proj.weight": (4, 4),
    "visual_projection.weight": (5, 4),
    "text_model.final_layer_norm.weight": (4,),
    "text_projection.weight": (5, 4),
    "logit_scale": (),
}


def state_of(shapes: Mapping[str, tuple[int, ...]], seed: int, dtype=torch.float32) -> State:
    """Random tensors."""
    source = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=source).to(dtype) for n, s in shapes.items()}


def tower_of(state: State) -> State:
    """The visual tower of an open_clip model under its own names."""
    return {n.removeprefix("visual."): v for n, v in state.items() if n.startswith("visual.")}


def write_shards(folder: Path, state: State, *, count: int = 2, name: str = "model") -> Path:
    """The state in several files, dealt out in turn, with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(state)
    places = {}
    for shard in range(count):
        file = f"{name}-{shard + 1:05}-of-{count:05}.safetensors"
        save_file({n: state[n] for n in names[shard::count]}, folder / file)
        places |= dict.fromkeys(names[shard::count], file)
    index = folder / f"{name}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def write_transformers(folder: Path, state: State, *, shards: int = 0) -> Path:
    """A folder as save_pretrained makes it, with a tokenizer's file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
    (folder / "vocab.json").write_text("{}")
    if shards:
        write_shards(folder, state, count=shards)
    else:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
