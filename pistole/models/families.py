"""Whose checkpoint it is, by its tensors' names; what of it is visual, and what no merge changes.

| family | where | visual tower | the rest |
|---|---|---|---|
| `open_clip` | whole model, file or folder | `visual.` | text tower, logit scale |
| `visual` | an open_clip tower alone, or any other file of bare names | all | - |
| `transformers` | folder of a `CLIPModel` | `vision_model.`, `visual_projection.` | likewise |
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pistole.errors import UserError
from pistole.models.layouts import VISUAL, strip_wrappers
from pistole.models.offshelf import CONFIG
from pistole.models.streams import INDEX, StoredState, StoredTensor, open_state

FAMILIES = ("open_clip", "visual", "transformers")
SCOPES = ("visual", "all")
TRANSFORMERS_VISUAL = ("vision_model.", "visual_projection.")
KEPT = (  # by the end of the name: what no optimiser trains, so that the base's stays
    "running_mean",
    "running_var",
    "num_batches_tracked",
    "position_ids",
    "attn_mask",
    "input_resolution",
    "context_length",
    "vocab_size",
)
STATISTICS = ("running_mean", "running_var")  # of KEPT, what changes a model's outputs
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", INDEX)


@dataclass(frozen=True)
class Model:
    """A checkpoint that is open for reading.

    Attributes:
        name: as the user gave it.
        family: one of :data:`FAMILIES`.
        state: its tensors.
        folder: where its config and tokenizer are, if the user gave a folder; else None.
    """

    name: str
    family: str
    state: StoredState
    folder: Path | None

    def part(self, scope: str) -> dict[str, StoredTensor]:
        """Return what is merged, or kept, of one scope.

        Args:
            scope: ``visual`` or ``all``.

        Returns:
            Tensors by the names that all members of the family share: an open_clip tower's are
            bare, whether it comes alone or in a whole model.

        Raises:
            UserError: there is no visual tower.
        """
        tensors = self.state.tensors
        if scope == "all" or self.family == "visual":
            return dict(tensors)
        if self.family == "open_clip":
            return {n.removeprefix(VISUAL): t for n, t in tensors.items() if n.startswith(VISUAL)}
        found = {n: t for n, t in tensors.items() if n.startswith(TRANSFORMERS_VISUAL)}
        if not found:
            raise UserError(
                f"{self.name} has no tensor vision_model.*, so no visual tower: give a CLIP, or "
                "--scope all"
            )
        return found


@contextmanager
def open_model(path: Path, *, allow_pickle: bool = False) -> Iterator[Model]:
    """Open a user's checkpoint.

    Args:
        path: a file or a folder, see :func:`pistole.models.streams.open_state`.
        allow_pickle: read pickles too (weights only).

    Yields:
        The model, readable within the block.

    Raises:
        UserError: it cannot be read, or holds no tensor.
    """
    with open_state(path, allow_pickle=allow_pickle) as state:
        if not state.tensors:
            raise UserError(f"{path} holds no tensor: give a checkpoint")
        folder = path if path.is_dir() else None
        family = family_of(state.tensors, folder)
        if family != "transformers":  # whose language models are all `model.`, which is no wrapper
            state = replace(state, tensors=strip_wrappers(state.tensors))
            family = family_of(state.tensors)
        yield Model(str(path), family, state, folder)


def family_of(names: Mapping[str, StoredTensor], folder: Path | None = None) -> str:
    """Tell whose checkpoint it is.

    Args:
        names: its tensors.
        folder: the folder that it is in; None if the user gave a file.

    Returns:
        One of :data:`FAMILIES`.
    """
    of_transformers = any(name.startswith("vision_model.") for name in names)
    if of_transformers or (folder is not None and _is_transformers(folder / "config.json")):
        return "transformers"
    if any(name.startswith(VISUAL) for name in names):
        return "open_clip"
    return "visual"


def _is_transformers(config: Path) -> bool:
    if not config.is_file() or (config.parent / CONFIG).is_file():
        return False
    try:
        document = json.loads(config.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{config} is not JSON ({error}): copy the checkpoint again") from None
    return isinstance(document, dict) and "model_type" in document


def is_kept(name: str, tensor: StoredTensor) -> bool:
    """Tell whether merging leaves a tensor as the base has it.

    Args:
        name: of the tensor.
        tensor: the tensor.

    Returns:
        True for integers, and for buffers such as BatchNorm's statistics.
    """
    return not tensor.dtype.is_floating_point or name.endswith(KEPT)


def companions(folder: Path) -> list[Path]:
    """List the files beside the weights: config, tokenizer, preprocessing, licence.

    Args:
        folder: of a checkpoint.

    Returns:
        Its plain files that are no weights and not hidden, sorted.
    """
    return sorted(
        item
        for item in folder.iterdir()
        if item.is_file() and not item.name.startswith(".") and not item.name.endswith(WEIGHT_FILES)
    )


def copy_companions(source: Path, target: Path, *, but: str) -> None:
    """Copy what stands beside the weights.

    Args:
        source: folder of a checkpoint.
        target: folder of the new one.
        but: a file of that name is left out.
    """
    for item in companions(source):
        if item.name != but:
            shutil.copyfile(item, target / item.name)
