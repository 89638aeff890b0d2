"""Checkpoints that others made: where they are, and whether they fit the base.

Tensors of the right names and shapes do not make the same network: the number of heads and the
activation leave no trace in them. open_clip's config tells both, where there is one.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pistole.errors import UserError
from pistole.files import read_json

HUB = "hf-hub:"
CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # of a hub's folder
QUICK = ("openai", "quickgelu")  # what a file's name says of its activation
NO_ARCHITECTURE = (  # of vision_cfg: another size shows in shapes, the rest is for training
    "image_size",
    "patch_dropout",
    "output_tokens",
    "timm_drop",
    "timm_drop_path",
    "timm_model_pretrained",
)


@dataclass(frozen=True)
class Checkpoint:
    """A file of weights.

    Attributes:
        name: as the user gave it.
        path: the file.
        config: open_clip's model config; None if there is none beside the file.
    """

    name: str
    path: Path
    config: dict[str, Any] | None


def find_checkpoint(name: str) -> Checkpoint:
    """Find a checkpoint by path or in the Hugging Face hub.

    Args:
        name: a file, a folder in the hub's layout (``open_clip_config.json`` and weights), or
            ``hf-hub:ORG/NAME``, which is fetched unless it is cached.

    Returns:
        The file, and open_clip's config if it is beside it. The file may be absent.
    """
    if name.startswith(HUB):
        return _from_hub(name)
    path = Path(name)
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        present = [path / weights for weights in WEIGHTS if (path / weights).is_file()]
        path = present[0] if present else path
    config = folder / CONFIG
    return Checkpoint(name, path, _model_config(config) if config.is_file() else None)


def _from_hub(name: str) -> Checkpoint:
    from open_clip.pretrained import download_pretrained_from_hf  # takes seconds to import

    from pistole.models.sources import fetch

    remedy = "fetch it where there is a network, or give finetune.SOURCE.checkpoint a path"
    repository = name.removeprefix(HUB)
    config = fetch(name, remedy, download_pretrained_from_hf, repository, CONFIG)
    weights = fetch(name, remedy, download_pretrained_from_hf, repository)
    return Checkpoint(name, weights, _model_config(config))


def _model_config(path: Path) -> dict[str, Any]:
    document = read_json(path)
    config = document.get("model_cfg", document) if isinstance(document, dict) else {}
    if not isinstance(config, dict) or "vision_cfg" not in config:
        raise UserError(f"{path} is not an open_clip config: it needs model_cfg with vision_cfg")
    return config


def check_pairing(checkpoint: Checkpoint, base: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another architecture or activation than the base's.

    Args:
        checkpoint: what :func:`find_checkpoint` found.
        base: the base's ``model.json``: ``config`` and ``description``.

    Raises:
        UserError: the config, or else the file's name, tells of another network.
    """
    about = base["description"]
    if checkpoint.config is not None:
        _check_vision(checkpoint, base["config"]["vision_cfg"], about["architecture"])
        found = _activation(checkpoint.config, checkpoint.name)
    elif any(word in checkpoint.path.name.lower() for word in QUICK):
        found = "QuickGELU"
    else:
        return
    if found != about["activation"]:
        raise UserError(
            f"{checkpoint.name} was trained with the activation {found}, but the base "
            f"{about['architecture']} has {about['activation']}: give a checkpoint of this base, "
            "or set base.model to the architecture with that activation"
        )


def _check_vision(checkpoint: Checkpoint, own: dict[str, Any], architecture: str) -> None:
    found, expected = _complete(checkpoint.config["vision_cfg"]), _complete(own)  # type: ignore[index]
    for key in sorted(found.keys() | expected.keys()):
        if key not in NO_ARCHITECTURE and found.get(key) != expected.get(key):
            raise UserError(
                f"{checkpoint.name} has vision_cfg.{key} {found.get(key)}, but the base "
                f"{architecture} {expected.get(key)}: give a checkpoint of this base"
            )


def _complete(vision: dict[str, Any]) -> dict[str, Any]:
    """Fill in open_clip's defaults, so that a value left out equals the same value written."""
    from open_clip.model import CLIPVisionCfg  # takes seconds to import

    return asdict(CLIPVisionCfg()) | vision


def _activation(config: dict[str, Any], name: str) -> str:
    import torch

    from pistole.models.towers import activations, build_visual

    side = config["vision_cfg"].get("image_size", 224)
    with torch.device("meta"):
        visual = build_visual(config, side if isinstance(side, int) else side[0], name)
    return "+".join(activations(visual))
