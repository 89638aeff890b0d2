"""Preparation ``regmean``: Gram matrices of the inputs of every linear layer."""

from pistole.progress import counting
from pistole.stages.preparing.grams import axes_of, grams_of
from pistole.stages.preparing.job import Job, Tensors
from pistole.stages.preparing.sources import sources


def prepare(job: Job) -> tuple[Tensors, dict[str, float]]:
    """Measure X^T X / rows of theta_nat on clean and of theta_rob on adversarial images.

    Args:
        job: the inputs.

    Returns:
        ``SOURCE/TENSOR`` -> Gram matrix in fp64, ``axis/TENSOR`` as
        :class:`pistole.baselines.regmean.RegMean` reads it; and the number of linear layers.
    """
    statistics: Tensors = {}
    with counting("prepare regmean", 2) as advance:
        for source in sources(job):
            grams = grams_of(job, source)
            # To the CPU at once: of a large tower all Gram matrices take gigabytes.
            for name in grams.axes:
                statistics[f"{source.name}/{name}"] = grams.mean(name).cpu()
            statistics |= axes_of(job, grams)
            advance(source.name)
    return statistics, {"linear_layers": float(len(grams.axes))}
