"""What every stage that runs a model does first: threads, device, precision, the classifier."""

from pathlib import Path

import torch

from pistole.errors import UserError
from pistole.files import load_tensors
from pistole.models.checkpoint import open_base
from pistole.models.zeroshot import ZeroShotClassifier, load_parameters
from pistole.params import Params
from pistole.robust.pgd import Budget
from pistole.stages.towers import read_parameters

RESUME = Path(".pistole/resume")  # what a killed stage goes on from; no output of the DAG


def use_threads(params: Params) -> None:
    """Sum in the order that so many threads give, whatever the machine has.

    Args:
        params: ``threads`` is read.
    """
    torch.set_num_threads(params.threads)


def device_of(params: Params) -> torch.device:
    """Choose the device and make arithmetic repeatable and fp32 throughout.

    Args:
        params: ``device`` and ``threads`` are read.

    Returns:
        The device.

    Raises:
        UserError: ``device: cuda`` on a machine without one.
    """
    use_threads(params)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if params.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device is 'cuda' but no CUDA device is visible: set device: auto or cpu")
    wanted = params.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def attack_budget(params: Params, use: str) -> Budget:
    """Read the effort of a PGD attack.

    Args:
        params: ``attack.eps`` and ``attack.USE`` are read.
        use: ``train``, ``calibration`` (under which the robust loss is differentiated) or
            ``select``.

    Returns:
        The attack.
    """
    knobs = getattr(params.attack, use)
    options = {"loss": knobs.loss} if use == "train" else {}
    return Budget(params.attack.eps, knobs.alpha, knobs.steps, knobs.init, **options)


def text_head(base: Path, dataset: str) -> torch.Tensor:
    """Read the frozen text features of one dataset.

    Args:
        base: what stage ``base`` wrote.
        dataset: its name.

    Returns:
        Unit-norm class embeddings ``[C, e]``.

    Raises:
        UserError: the base has no text features for the dataset.
    """
    head = base / "text" / f"{dataset}.safetensors"
    if not head.is_file():
        raise UserError(f"{head} does not exist: add '{dataset}' to datasets and run stage base")
    return load_tensors(head)[0]["text_features"]


def classifier(base: Path, dataset: str, device: torch.device) -> ZeroShotClassifier:
    """Open the base model as a zero-shot classifier of one dataset.

    Args:
        base: what stage ``base`` wrote.
        dataset: whose text features make the head.
        device: where to put it.

    Returns:
        The classifier, in eval mode.
    """
    opened = open_base(base)
    model = ZeroShotClassifier(
        opened.visual,
        text_head(base, dataset),
        mean=opened.mean,
        std=opened.std,
        image_size=opened.image_size,
        logit_scale=opened.logit_scale,
    )
    return model.to(device).eval()


def with_parameters(
    model: ZeroShotClassifier, theta: dict[str, torch.Tensor]
) -> ZeroShotClassifier:
    """Load visual parameters into a classifier in place.

    Args:
        model: classifier of the base.
        theta: fp32 parameters.

    Returns:
        The same classifier.
    """
    load_parameters(model, theta)
    return model


def tower(path: Path, base: Path, device: torch.device) -> dict[str, torch.Tensor]:
    """Read a visual tower's parameters onto a device.

    Args:
        path: a folder with ``visual.safetensors``, or a checkpoint file.
        base: what stage ``base`` wrote.
        device: where to put them.

    Returns:
        The parameters.
    """
    return {name: value.to(device) for name, value in read_parameters(path, base).items()}
