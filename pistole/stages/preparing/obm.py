"""Preparation ``obm``: curvatures of the squared output error of every linear layer."""

from pistole.baselines.obm import curvatures
from pistole.progress import counting
from pistole.stages.preparing.grams import axes_of, grams_of
from pistole.stages.preparing.job import Job, Tensors
from pistole.stages.preparing.sources import sources


def prepare(job: Job) -> tuple[Tensors, dict[str, float]]:
    """Measure H_jj and 1 / [H^-1]_jj of theta_nat on clean and of theta_rob on adversarial images.

    Args:
        job: the inputs.

    Returns:
        ``SOURCE obd/TENSOR``, ``SOURCE obs/TENSOR`` and ``axis/TENSOR`` as
        :class:`pistole.baselines.obm.Obm` reads them; and the number of linear layers and of
        inputs that are always 0.
    """
    statistics, numbers = {}, {}
    with counting("prepare obm", 2) as advance:
        for source in sources(job):
            grams = grams_of(job, source)
            dead = 0
            for name in grams.axes:
                obd, obs = curvatures(grams.mean(name))
                dead += int((obd == 0).sum())
                statistics[f"{source.name} obd/{name}"] = obd
                statistics[f"{source.name} obs/{name}"] = obs
            statistics |= axes_of(job, grams)
            numbers[f"dead_inputs/{source.name}"] = float(dead)
            advance(source.name)
    return statistics, numbers | {"linear_layers": float(len(grams.axes))}
