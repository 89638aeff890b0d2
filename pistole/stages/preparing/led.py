"""Preparation ``led``: importances of the fine-tuned models and of the base on the same images."""

from pistole.baselines.led import importance
from pistole.progress import counting
from pistole.stages.preparing.job import Job, Tensors
from pistole.stages.preparing.sources import at_once, sample_loss, sources


def prepare(job: Job) -> tuple[Tensors, dict[str, float]]:
    """Measure E |theta * gradient| on clean (natural) and on adversarial images (robust).

    The base sees the very images of each task: the adversarial ones are made at theta_rob.

    Args:
        job: the inputs.

    Returns:
        ``SOURCE/TENSOR`` and ``base SOURCE/TENSOR`` -> importances; and per source the mean one of
        both models.
    """
    statistics, numbers = {}, {}
    loss, together = sample_loss(job), at_once(job)
    with counting("prepare led", 4) as advance:
        for source in sources(job):
            samples = (source.pixels, source.labels)
            for key, theta in ((source.name, source.theta), (f"base {source.name}", job.theta_0)):
                found = importance(loss, theta, samples, together=together)
                statistics |= {f"{key}/{name}": value for name, value in found.items()}
                numbers[f"mean_importance/{key}"] = _mean(found)
                advance(key)
    return statistics, numbers


def _mean(importances: Tensors) -> float:
    total = sum(value.double().sum().item() for value in importances.values())
    return total / sum(value.numel() for value in importances.values())
