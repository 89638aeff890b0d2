"""Stage ``pretrain`` (frozen): the small CLIP of the embedded world, from seed to weights."""

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch

from pistole.data.world.tasks import captioned
from pistole.files import save_tensors
from pistole.models.pretraining import Recipe, pretrain
from pistole.models.text import CompactTokenizer
from pistole.progress import say, track
from pistole.seeds import derive

RESUME = Path(".pistole/resume/pretrain.safetensors")
BATCH, LR, WEIGHT_DECAY, WARMUP = 256, 1.5e-3, 0.1, 300


def run(
    config: Path,
    out: Path,
    pictures: int,
    epochs: int,
    seed: int,
    threads: int,
    on_metric: Callable[[str, float, int], None],
) -> None:
    """Draw captioned pictures, train contrastively, write the weights.

    Args:
        config: open_clip architecture with ``vocabulary``, ``mean`` and ``std``.
        out: weights, fp32 safetensors.
        pictures: number of captioned pictures.
        epochs: passes over them.
        seed: seed of everything.
        threads: torch threads; part of the result's bytes.
        on_metric: called with (name, value, epoch).
    """
    torch.set_num_threads(threads)
    architecture = json.loads(config.read_text())
    vocabulary = architecture.pop("vocabulary")
    mean, std = (torch.tensor(architecture.pop(key))[:, None, None] for key in ("mean", "std"))
    tokenizer = CompactTokenizer(vocabulary, architecture["text_cfg"]["context_length"])
    images, tokens = _stream(pictures, seed, threads, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "pretrain", "init"))
        model = open_clip.CLIP(**architecture)
    recipe = Recipe(epochs, BATCH, LR, WEIGHT_DECAY, WARMUP, seed)

    def report(epoch: int, loss: float) -> None:
        say(f"pretrain: epoch {epoch + 1}/{epochs}, loss {loss:.4f}")
        on_metric("loss", loss, epoch)

    pretrain(model, images, tokens, lambda x: (x - mean) / std, recipe, RESUME, report)
    save_tensors(out, model.state_dict(), {"recipe": recipe.__dict__, "pictures": pictures})
    RESUME.unlink(missing_ok=True)


def _stream(
    pictures: int, seed: int, workers: int, tokenizer: CompactTokenizer
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the pictures in parallel; each depends on its number alone."""
    with ProcessPoolExecutor(workers) as pool:
        results = pool.map(partial(captioned, seed), range(pictures), chunksize=500)
        drawn = list(track(results, "drawing", pictures))
    images = torch.from_numpy(np.stack([picture for picture, _ in drawn]))
    texts = [text for _, captions in drawn for text in captions]
    distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    tokens = tokenizer(list(distinct))[[distinct[text] for text in texts]]
    return images, tokens.view(pictures, -1, tokens.shape[-1])
