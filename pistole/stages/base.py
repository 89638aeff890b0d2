"""Stage ``base``: the pre-trained model's visual tower and its text features of every dataset."""

from pathlib import Path

from pistole.errors import UserError
from pistole.files import atomic_directory, save_tensors
from pistole.models.base import load_base
from pistole.models.checkpoint import save_base
from pistole.models.zeroshot import text_features
from pistole.params import Params
from pistole.stages.runtime import device_of
from pistole.stages.slices import index_of


def run(params: Params, data: Path, out: Path, *, allow_pickle: bool = False) -> dict[str, float]:
    """Load the base model once and store what all later stages need of it.

    Args:
        params: ``base`` and ``datasets`` are read.
        data: folder with one folder per dataset.
        allow_pickle: read the base's weights from a ``.pt`` file too (weights only).
        out: folder for the visual tower, ``model.json`` and ``text/DATASET.safetensors``.

    Returns:
        Number of visual parameters.

    Raises:
        UserError: ``data`` holds a dataset that ``datasets`` does not name.
    """
    device_of(params)
    entries = data.iterdir() if data.is_dir() else ()  # index_of tells what is missing
    strangers = sorted(p.name for p in entries if p.is_dir() and p.name not in params.datasets)
    if strangers:
        raise UserError(
            f"{data} holds {', '.join(strangers)}, which datasets does not name: "
            "run 'pistole prune'"
        )
    base = load_base(
        params.base.kind,
        params.base.model,
        params.base.pretrained,
        image_size=params.base.image_size,
        mean=params.base.mean,
        std=params.base.std,
        allow_pickle=allow_pickle,
    )
    with atomic_directory(out) as folder:
        for dataset in params.datasets:
            index = index_of(data / dataset)
            features = text_features(base.encode_text, index["classnames"], index["templates"])
            about = {
                "dataset": dataset,
                "classnames": index["classnames"],
                "templates": index["templates"],
            }
            save_tensors(
                folder / "text" / f"{dataset}.safetensors", {"text_features": features}, about
            )
        save_base(folder, base, logit_scale=params.base.logit_scale)
    return {"visual_parameters": float(sum(p.numel() for p in base.visual.parameters()))}
