"""Inputs of both models' linear layers, for the methods that match layers' outputs."""

import torch

from pistole.baselines.activations import NONE, Grams, LinearInputs
from pistole.models.zeroshot import functional_logits
from pistole.stages.preparing.job import Job, Tensors
from pistole.stages.preparing.sources import Prepared


@torch.no_grad()
def grams_of(job: Job, source: Prepared) -> Grams:
    """Run a model on its images and add up its layers' inputs.

    Args:
        job: gives the model and the images per pass.
        source: its parameters and images.

    Returns:
        The Gram matrices.
    """
    grams = Grams()
    for part in source.pixels.split(job.pass_size):
        with LinearInputs(source.theta, grams.visit):
            functional_logits(job.model, source.theta, part)
    return grams


def axes_of(job: Job, grams: Grams) -> Tensors:
    """Say of every tensor what linear layer it is, as the rules read it.

    Args:
        job: gives the tensors.
        grams: of any of the models, which have one architecture.

    Returns:
        ``axis/TENSOR`` -> axis that inputs run along, -1 for what is no linear layer.
    """
    return {f"axis/{name}": torch.tensor(grams.axes.get(name, NONE)) for name in job.theta_0}
