"""Build open_clip models from a config and look at their activation function."""

import copy
from typing import Any

import open_clip
import torch
from open_clip.transformer import QuickGELU
from torch import nn

from pistole.errors import UserError

Config = dict[str, Any]
OPEN_CLIP_KEYS = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text")
LOGIT_KEYS = ("init_logit_scale", "init_logit_bias", "nonscalar_logit_scale")
BUILD_ERRORS = (KeyError, TypeError, ValueError, RuntimeError, AttributeError, ImportError, OSError)
NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


def build_clip(config: Config, where: str) -> nn.Module:
    """Build an open_clip model with arbitrary weights.

    Args:
        config: open_clip's model config.
        where: name or file of the config, for the message.

    Returns:
        The model in eval mode.

    Raises:
        UserError: open_clip cannot build a model of two towers from the config.
    """
    if "multimodal_cfg" in config:
        raise UserError(f"{where} is a captioning model (CoCa): choose a model of two towers")
    known = {key: config[key] for key in (*OPEN_CLIP_KEYS, *LOGIT_KEYS) if key in config}
    known = copy.deepcopy(known)
    try:
        custom = known.pop("custom_text", False) or "hf_model_name" in known["text_cfg"]
        if "timm_model_name" in known["vision_cfg"]:
            known["vision_cfg"]["timm_model_pretrained"] = False
        if "hf_model_name" in known["text_cfg"]:
            known["text_cfg"]["hf_model_pretrained"] = False
        build = open_clip.CustomTextCLIP if custom else open_clip.CLIP
        with torch.random.fork_rng(devices=[]):  # initialisation draws from the global state
            model = build(**known)
    except (
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
        AttributeError,
        ImportError,
        OSError,
    ) as error:
        raise UserError(
            f"{where}: open_clip cannot build this model ({type(error).__name__}: {error}): "
            "give a config with embed_dim, vision_cfg and text_cfg that it knows"
        ) from None
    return model.eval()


def build_visual(config: Config, image_size: int, where: str) -> nn.Module:
    """Build the visual tower alone, at the given input size, without reading any other file.

    Args:
        config: open_clip's model config.
        image_size: side of the input, px.
        where: name or file of the config, for the message.

    Returns:
        The visual tower in eval mode, with arbitrary weights.
    """
    bare = {**config, "text_cfg": NO_TEXT, "custom_text": False}
    visual = build_clip(bare, where).visual
    if "timm_model_name" in config["vision_cfg"]:
        visual.set_input_size(image_size)  # type: ignore[operator]
    return visual  # type: ignore[return-value]


def activations(model: nn.Module) -> list[str]:
    """List the activation functions of a model.

    Args:
        model: any model.

    Returns:
        Sorted class names, such as ``["QuickGELU"]``.
    """
    packages = ("torch.nn.modules.activation", "timm.layers.activations")
    other = (nn.MultiheadAttention, nn.Softmax)
    return sorted(
        {
            type(part).__name__
            for part in model.modules()
            if isinstance(part, QuickGELU)
            or (type(part).__module__ in packages and not isinstance(part, other))
        }
    )


def check_quick_gelu(model: nn.Module, name: str, *, needed: bool) -> None:
    """Refuse a model whose activation is not the one that its weights were trained with.

    open_clip only warns, and the result is a plausible but wrong accuracy (its issue 771).

    Args:
        model: a whole model or a visual tower.
        name: the architecture's name, for the message.
        needed: True for weights trained with QuickGELU, such as OpenAI's.

    Raises:
        UserError: the activation is GELU where QuickGELU is needed, or the reverse.
    """
    found = activations(model)
    plain, quick = "GELU" in found, "QuickGELU" in found
    if needed and (plain or not quick):
        raise UserError(
            f"{name} has the activation {'+'.join(found)} but its weights were trained with "
            f"QuickGELU: use the model {name.removesuffix('-quickgelu')}-quickgelu"
        )
    if not needed and quick:
        raise UserError(
            f"{name} has the activation QuickGELU but its weights were trained with GELU: "
            f"use the model {name.removesuffix('-quickgelu')}"
        )
