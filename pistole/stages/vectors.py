"""Stage ``vectors@SOURCE``: the displacement of one fine-tuned model from the base."""

from pathlib import Path

import torch

from pistole.files import save_tensors
from pistole.method.vectors import task_vector
from pistole.params import Params
from pistole.stages.runtime import use_threads
from pistole.stages.towers import base_digest, base_state, read_parameters, require_source


def run(params: Params, source: str, base: Path, checkpoint: Path, out: Path) -> dict[str, float]:
    """Subtract the base from a checkpoint.

    Args:
        params: ``threads`` is read.
        source: ``natural`` or ``robust``.
        base: what stage ``base`` wrote.
        checkpoint: folder with ``visual.safetensors``, or such a file.
        out: the task vector.

    Returns:
        Norm of the vector, also relative to the base.
    """
    use_threads(params)
    require_source(source)
    theta_0, _ = base_state(base)
    tau = task_vector(read_parameters(checkpoint, base), theta_0)
    save_tensors(out, tau, {"source": source, "base_digest": base_digest(base)})
    norm = _norm(tau)
    return {"norm": norm, "relative_norm": norm / _norm(theta_0)}


def _norm(tensors: dict[str, torch.Tensor]) -> float:
    return torch.stack([t.double().norm() for t in tensors.values()]).norm().item()
