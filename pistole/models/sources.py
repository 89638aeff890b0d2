"""Where a base model comes from: its config, weights, normalisation and tokenizer."""

import difflib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import try_to_load_from_cache
from open_clip.pretrained import download_pretrained_from_hf
from torch import Tensor

from pistole.errors import UserError
from pistole.files import read_json
from pistole.models import EMBEDDED
from pistole.models.offshelf import HUB
from pistole.models.text import CompactTokenizer
from pistole.models.towers import Config

REMEDY = (
    "download its weights elsewhere and give base.pretrained their path (and base.model the path "
    "of the config)"
)
HUB_CONFIG = "open_clip_config.json"


@dataclass(frozen=True)
class Source:
    """All that is needed to build a base model.

    Attributes:
        name: the architecture's name, for messages and the record.
        config: open_clip's model config.
        weights: file of the state dict.
        mean: per channel of pixels in [0, 1]; None if the source does not tell.
        std: likewise.
        quick_gelu: whether the weights were trained with QuickGELU; None if unknown.
        tokenizer: makes the tokenizer of the text tower.
    """

    name: str
    config: Config
    weights: Path
    mean: Sequence[float] | None
    std: Sequence[float] | None
    quick_gelu: bool | None
    tokenizer: Callable[[], Callable[[list[str]], Tensor]]


def find_source(
    kind: str, model: str | None, pretrained: str | None, assets: Path | None
) -> Source:
    """Find a base model's parts, fetching them by name only where no path is given.

    Args:
        kind: ``embedded`` or ``open_clip``.
        model: open_clip name, ``hf-hub:`` name, or path of an open_clip config (JSON).
        pretrained: open_clip tag, or path of weights.
        assets: folder of ``embedded.json`` and ``embedded.safetensors``; None: the package's.

    Returns:
        The source; its files exist.

    Raises:
        UserError: an unknown kind, name or tag, a missing file, or a download that failed.
    """
    if kind == "embedded":
        return _embedded(assets or EMBEDDED)
    if kind != "open_clip":
        raise UserError(f"base.kind is {kind!r}: use 'embedded' or 'open_clip'")
    if not model:
        raise UserError("base.model is empty: give an open_clip name or the path of a config")
    if model.startswith(HUB):
        return _from_hub(model, pretrained)
    if model.endswith(".json") or Path(model).is_file():
        return _from_config(Path(model), pretrained)
    return _by_name(model, pretrained)


def find_config(kind: str, model: str | None) -> tuple[str, Config]:
    """Find a base model's architecture alone, without its weights and without the network.

    Args:
        kind: ``embedded`` or ``open_clip``.
        model: open_clip name, ``hf-hub:`` name that is in the cache, or path of a config (JSON).

    Returns:
        The architecture's name, and open_clip's model config.

    Raises:
        UserError: an unknown name, no config, or a ``hf-hub:`` name that was never fetched.
    """
    if kind == "embedded":
        return "embedded", read_json(EMBEDDED / "embedded.json")
    if not model:
        raise UserError("base.model is empty: give an open_clip name or the path of a config")
    if model.startswith(HUB):
        found = try_to_load_from_cache(model.removeprefix(HUB), HUB_CONFIG)
        if not isinstance(found, str):
            raise UserError(f"the config of {model} is not in the Hugging Face cache: fetch it")
        return model, read_json(found)["model_cfg"]
    if model.endswith(".json") or Path(model).is_file():
        return Path(model).stem, _config_in(Path(model))[0]
    return _named_config(model)


def _embedded(assets: Path) -> Source:
    weights = assets / "embedded.safetensors"
    if not weights.is_file():
        raise UserError(f"{weights} does not exist: make it with `pistole pretrain`")
    config = read_json(assets / "embedded.json")
    length = config["text_cfg"]["context_length"]
    return Source(
        "embedded",
        config,
        weights,
        config["mean"],
        config["std"],
        bool(config.get("quick_gelu", False)),
        lambda: CompactTokenizer(config["vocabulary"], length),
    )


def _config_in(path: Path) -> tuple[Config, dict[str, Any]]:
    """The model config in a file, and the whole document."""
    document = read_json(path)
    config = document.get("model_cfg", document) if isinstance(document, dict) else {}
    if not all(key in config for key in ("embed_dim", "vision_cfg", "text_cfg")):
        raise UserError(
            f"{path} is not an open_clip config: it needs embed_dim, vision_cfg, text_cfg"
        )
    return config, document


def _from_config(path: Path, pretrained: str | None) -> Source:
    config, document = _config_in(path)
    normal = document.get("preprocess_cfg", document)
    weights = _weights_path(pretrained, f"the config {path}")
    quick = True if _says_openai(path.name, weights.name) else None
    return Source(
        path.stem,
        config,
        weights,
        normal.get("mean"),
        normal.get("std"),
        quick,
        lambda: _tokenizer_of(config["text_cfg"]),
    )


def _from_hub(model: str, pretrained: str | None) -> Source:
    identifier = model.removeprefix(HUB)
    path = fetch(model, REMEDY, download_pretrained_from_hf, identifier, HUB_CONFIG)
    document = read_json(path)
    if pretrained:
        weights = _weights_path(pretrained, model)
    else:
        weights = fetch(model, REMEDY, download_pretrained_from_hf, identifier)
    normal = document.get("preprocess_cfg", {})
    return Source(
        model,
        document["model_cfg"],
        weights,
        normal.get("mean", open_clip.OPENAI_DATASET_MEAN),
        normal.get("std", open_clip.OPENAI_DATASET_STD),
        True if _says_openai(model, weights.name) else None,
        lambda: _fetch_tokenizer(model),
    )


def _named_config(model: str) -> tuple[str, Config]:
    name = model.replace("/", "-")
    config = open_clip.get_model_config(name)
    if config is None:
        near = difflib.get_close_matches(name, open_clip.list_models(), n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise UserError(
            f"open_clip has no model {model!r}{hint}, and it is no config file: correct it"
        )
    return name, config


def _by_name(model: str, pretrained: str | None) -> Source:
    name, config = _named_config(model)
    tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {}
    if tag and not Path(str(pretrained)).is_file():
        _refuse_offline_url(tag, pretrained)
        weights = fetch(f"{model} {pretrained}", REMEDY, open_clip.download_pretrained, tag)
        quick: bool | None = bool(tag.get("quick_gelu", False))
    else:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name))
        weights = _weights_path(pretrained, f"{model} (tags: {tags})")
        quick = True if _says_openai(weights.name) else None
    return Source(
        name,
        config,
        weights,
        tag.get("mean", open_clip.OPENAI_DATASET_MEAN),
        tag.get("std", open_clip.OPENAI_DATASET_STD),
        quick,
        lambda: _fetch_tokenizer(name),
    )


def _says_openai(*names: str) -> bool:
    return any("openai" in name.lower() for name in names)


def _weights_path(pretrained: str | None, what: str) -> Path:
    if not pretrained or not Path(pretrained).is_file():
        raise UserError(
            f"base.pretrained is {pretrained!r}, no known tag or file, for {what}: "
            "give the path of its weights"
        )
    return Path(pretrained)


def _refuse_offline_url(tag: dict[str, Any], name: str | None) -> None:
    # Hub downloads honour HF_HUB_OFFLINE by themselves; open_clip's plain URLs do not.
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    if offline and not tag.get("hf_hub"):
        raise UserError(
            f"HF_HUB_OFFLINE is set and {name!r} comes from a plain URL: "
            "give base.pretrained the path of its weights"
        )


def fetch(what: str, remedy: str, download: Callable[..., str], *arguments: Any) -> Path:
    """Download a file, or find it in the cache.

    Args:
        what: its name, for the message.
        remedy: what the user can do where it cannot be had.
        download: open_clip's function.
        *arguments: of that function.

    Returns:
        The file.

    Raises:
        UserError: it is not cached and cannot be fetched.
    """
    try:
        return Path(download(*arguments))
    except Exception as error:  # each hub and HTTP client has its own family of errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"cannot fetch {what} ({reason}): {remedy}") from None


def _fetch_tokenizer(name: str) -> Callable[[list[str]], Tensor]:
    try:
        return open_clip.get_tokenizer(name)
    except Exception as error:  # as in fetch
        raise UserError(
            f"cannot fetch the tokenizer of {name} ({type(error).__name__}): "
            "put it into the Hugging Face cache first"
        ) from None


def _tokenizer_of(text_cfg: dict[str, Any]) -> Callable[[list[str]], Tensor]:
    length = text_cfg.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    if "hf_tokenizer_name" in text_cfg:
        raise UserError(
            f"the text tower needs the tokenizer {text_cfg['hf_tokenizer_name']!r}: "
            f"give base.model the open_clip or {HUB} name instead of a config file"
        )
    return open_clip.SimpleTokenizer(
        context_length=length, **(text_cfg.get("tokenizer_kwargs") or {})
    )
