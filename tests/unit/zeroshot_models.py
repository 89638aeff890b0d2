"""A small ViT as a zero-shot classifier, and images that it can learn."""

import torch
from torch import Tensor, nn

from pistole.models.zeroshot import ZeroShotClassifier

CLASSES, SIDE, GRID = 4, 16, 2
VISION = {"image_size": SIDE, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
TEXT = {"context_length": 8, "vocab_size": 99, "width": 8, "heads": 2, "layers": 1}


def visual_tower(seed: int = 0, **vision) -> nn.Module:
    """open_clip's visual tower with weights from a seed."""
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return open_clip.CLIP(12, {**VISION, **vision}, TEXT).eval().visual


def zero_shot(seed: int = 0, logit_scale: float = 10.0, **vision) -> ZeroShotClassifier:
    """A classifier of CLASSES classes."""
    source = torch.Generator().manual_seed(7)
    text = nn.functional.normalize(torch.randn(CLASSES, 12, generator=source), dim=1)
    tower = visual_tower(seed, **vision)
    return ZeroShotClassifier(tower, text, [0.5] * 3, [0.25] * 3, SIDE, logit_scale)


def moved(model: ZeroShotClassifier, by: float = 0.05, seed: int = 3) -> ZeroShotClassifier:
    """The same classifier with its weights displaced, as after some training."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.visual.parameters():
            parameter.add_(by * torch.randn(parameter.shape, generator=source))
    return model


def pictures(n: int, seed: int = 0, side: int = SIDE) -> tuple[Tensor, Tensor]:
    """Class prototypes plus noise, in [0, 1], with labels."""
    prototypes = torch.rand(CLASSES, 3, side, side, generator=torch.Generator().manual_seed(99))
    y = torch.arange(n) % CLASSES
    noise = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return (0.5 + 0.5 * (prototypes[y] - 0.5) + 0.15 * noise).clamp(0, 1), y
