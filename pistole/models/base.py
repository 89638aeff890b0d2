"""The pre-trained model that everything starts from: theta_0 and its frozen text tower."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed
from torch import nn

from pistole.errors import UserError
from pistole.files import sha256_file
from pistole.models.checkpoint import VisualBase
from pistole.models.sources import Source, find_source
from pistole.models.state import check_state, digest, read_state, single_precision
from pistole.models.text import TextEncoder, text_encoder
from pistole.models.towers import (
    LOGIT_KEYS,
    OPEN_CLIP_KEYS,
    Config,
    activations,
    build_clip,
    check_quick_gelu,
)


@dataclass(frozen=True)
class BaseModel(VisualBase):
    """A base model with its text tower.

    Attributes:
        encode_text: from texts to unit-norm features [n, e].
    """

    encode_text: TextEncoder


def load_base(
    kind: str,
    model: str | None = None,
    pretrained: str | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    assets: Path | None = None,
    *,
    allow_pickle: bool = False,
) -> BaseModel:
    """Load a base model.

    Args:
        kind: ``embedded`` (ships with the package) or ``open_clip``.
        model: open_clip name, ``hf-hub:`` name, or path of an open_clip config (JSON).
        pretrained: open_clip tag, or path of weights.
        image_size: side of the tower's input, px; None: the model's own.
        mean: per channel, of pixels in [0, 1]; None: the model's own.
        std: likewise.
        assets: folder of the embedded model; None: the package's.
        allow_pickle: read weights from pickles too (weights only).

    Returns:
        The model in fp32 and eval mode.

    Raises:
        UserError: the normalisation is unknown, or is not three numbers with std > 0.
    """
    source = find_source(kind, model, pretrained, assets)
    mean = source.mean if mean is None else mean
    std = source.std if std is None else std
    if mean is None or std is None:
        raise UserError(
            f"{source.name} does not say its normalisation: give base.mean and base.std"
        )
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(f"base.mean {mean} and base.std {std}: give three numbers each, std > 0")
    config, side = _config_at(source, image_size)
    clip = build_clip(source.config, source.name)
    if source.quick_gelu is not None:
        check_quick_gelu(clip, source.name, needed=source.quick_gelu)
    clip = _with_weights(clip, source, config, allow_pickle)
    return BaseModel(
        visual=clip.visual,  # type: ignore[arg-type]
        config=config,
        image_size=side,
        mean=tuple(float(value) for value in mean),
        std=tuple(float(value) for value in std),
        description=_describe(source, clip),
        encode_text=text_encoder(clip, source.tokenizer()),
    )


def _config_at(source: Source, image_size: int | None) -> tuple[Config, int]:
    own = source.config["vision_cfg"].get("image_size", 224)
    side = image_size or (own if isinstance(own, int) else own[0])
    if not image_size and not isinstance(own, int) and len(set(own)) > 1:
        raise UserError(f"{source.name} takes images of {own} px: give one side as base.image_size")
    kept = {k: v for k, v in source.config.items() if k in (*OPEN_CLIP_KEYS, *LOGIT_KEYS)}
    if image_size:
        kept["vision_cfg"] = {**kept["vision_cfg"], "image_size": image_size}
    return kept, side


def _with_weights(clip: nn.Module, source: Source, config: Config, allow_pickle: bool) -> nn.Module:
    state = single_precision(read_state(source.weights, allow_pickle=allow_pickle)[0])
    if "positional_embedding" in state and not hasattr(clip, "positional_embedding"):
        state = convert_to_custom_text_state_dict(state)
    for name in state.keys() & {"logit_scale", "logit_bias"}:  # 0-d or 1-d by version of open_clip
        if state[name].numel() == 1 and name in clip.state_dict():
            state[name] = state[name].reshape(clip.state_dict()[name].shape)
    check_state(state, clip.state_dict(), source.weights)
    if config["vision_cfg"].get("image_size") == source.config["vision_cfg"].get("image_size"):
        clip.load_state_dict(state)
        return clip
    if "timm_model_name" in config["vision_cfg"]:
        clip.load_state_dict(state)
        clip.visual.set_input_size(config["vision_cfg"]["image_size"])  # type: ignore[operator]
        return clip
    resized = build_clip(config, source.name)
    resize_pos_embed(state, resized)
    resized.load_state_dict(state)
    return resized


def _describe(source: Source, clip: nn.Module) -> dict[str, Any]:
    visual = clip.visual.state_dict()  # type: ignore[union-attr]
    text = {n: v for n, v in clip.state_dict().items() if not n.startswith("visual.")}
    return {
        "architecture": source.name,
        "activation": "+".join(activations(clip.visual)),  # type: ignore[arg-type]
        "parameters": sum(p.numel() for p in clip.visual.parameters()),  # type: ignore[union-attr]
        "stored_logit_scale": round(float(text["logit_scale"].exp()), 4),
        "digests": {
            "weights_file": sha256_file(source.weights),
            "visual": digest(visual),
            "text": digest(text),
        },
    }
