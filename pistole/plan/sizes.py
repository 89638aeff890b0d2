"""How large a visual tower is: all that the bytes on the disk follow from."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

from pistole.files import read_json
from pistole.models import EMBEDDED
from pistole.params import Params

VISUAL = "visual."
GRAMS = "regmean"  # the one preparation whose files follow from the layers' inputs


@dataclass(frozen=True)
class Sizes:
    """What a visual tower holds.

    Attributes:
        parameters: number of parameters, which task vectors, scores and masks cover.
        buffers: number of values in buffers (BatchNorm statistics).
        embedding: length of a feature.
        image_size: side of the input, px.
        grams: number of values in the Gram matrices of all linear layers' inputs.
    """

    parameters: int
    buffers: int
    embedding: int
    image_size: int
    grams: int


def read_sizes(params: Params) -> Sizes:
    """Count without building the tower where the header of its weights says enough.

    Building one imports open_clip, which takes many times as long as all else that a check of
    the project needs.

    Args:
        params: ``base`` and ``prepare.run`` are read; the weights need not exist.

    Returns:
        The sizes; ``grams`` is 0 unless a preparation asks for it.
    """
    weights = EMBEDDED / "embedded.safetensors"
    shipped = params.base.kind == "embedded" and params.base.image_size is None
    if shipped and GRAMS not in params.prepare.run and weights.is_file():
        return _shipped(weights)
    from pistole.plan.tower import read_tower

    return read_tower(params)


def _shipped(weights: Path) -> Sizes:
    """The embedded tower has no buffers."""
    from safetensors import safe_open

    with safe_open(weights, framework="np") as header:
        names = [name for name in header.keys() if name.startswith(VISUAL)]  # noqa: SIM118
        count = sum(prod(header.get_slice(name).get_shape()) for name in names)
    config = read_json(EMBEDDED / "embedded.json")
    return Sizes(count, 0, config["embed_dim"], config["vision_cfg"]["image_size"], 0)
