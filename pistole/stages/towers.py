"""Visual towers as tensors: what the stages need that run no model, and so import no open_clip."""

from pathlib import Path

from torch import Tensor

from pistole.errors import UserError, require_choice
from pistole.files import load_tensors, read_json
from pistole.models.checkpoint import load_visual
from pistole.params import SOURCES

FILE = "visual.safetensors"


def require_source(source: str) -> None:
    """Refuse what is no source, since a stage takes its paths from anywhere.

    Args:
        source: what the command line says.

    Raises:
        UserError: ``source`` is neither natural nor robust.
    """
    require_choice("source", source, SOURCES)


def base_digest(base: Path) -> str:
    """Return the digest of the base's visual tower.

    Args:
        base: what stage ``base`` wrote.

    Returns:
        Its sha256, which task vectors and checkpoints carry.
    """
    return read_json(base / "model.json")["digest"]


def base_state(base: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Read the base's visual tower.

    Args:
        base: what stage ``base`` wrote.

    Returns:
        Parameters, which task vectors cover, and buffers (BatchNorm statistics), which stay the
        base's in every fine-tuned and merged model.
    """
    state, _ = load_tensors(base / FILE)
    buffers = set(read_json(base / "model.json")["buffers"])
    parameters = {name: value for name, value in state.items() if name not in buffers}
    return parameters, {name: value for name, value in state.items() if name in buffers}


def read_parameters(path: Path, base: Path) -> dict[str, Tensor]:
    """Read a visual tower and compare it with the base's architecture.

    Args:
        path: a folder with ``visual.safetensors``, or a checkpoint file.
        base: what stage ``base`` wrote.

    Returns:
        The parameters, fp32.
    """
    parameters, buffers = base_state(base)
    return load_visual(
        path / FILE if path.is_dir() else path,
        parameters,
        reference_buffers=buffers,
        base_digest=base_digest(base),
    )


def read_vectors(
    natural: Path, robust: Path, base: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Read both task vectors.

    Args:
        natural: the natural task vector.
        robust: the robust task vector.
        base: what stage ``base`` wrote; both must be displacements from it.

    Returns:
        The natural and the robust vector.
    """
    parameters, _ = base_state(base)
    digest = base_digest(base)
    tau_nat = load_visual(natural, parameters, base_digest=digest)
    return tau_nat, load_visual(robust, parameters, base_digest=digest)


def read_masks(folder: Path, variant: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Read the complementary masks of one score variant.

    Args:
        folder: what stage ``masks`` wrote.
        variant: ``gism``, ``gism_pci``, ``gism_apt`` or ``pistole``.

    Returns:
        The masks of the natural and of the robust vector.

    Raises:
        UserError: the file holds something else, such as scores, which have the same file name.
    """
    path = folder / f"{variant}.safetensors"
    split: dict[str, dict[str, Tensor]] = {source: {} for source in SOURCES}
    for key, value in load_tensors(path)[0].items():
        source, _, name = key.partition("/")
        if source not in split:
            raise UserError(f"{path} holds no masks: give the folder of 'pistole masks'")
        split[source][name] = value
    return split["natural"], split["robust"]
