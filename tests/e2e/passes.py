"""Count what really goes through visual towers, by kind of pass."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from open_clip.transformer import VisionTransformer
from torch.nn.modules.module import register_module_forward_hook

from pistole.plan.work import FORWARD, GRAPH, IMAGE, PRODUCT, SECOND, WEIGHT
from pistole.stages.theory import merge_path
from pistole.theory import sharpness


def kind_of(tower: VisionTransformer, images: torch.Tensor, features: torch.Tensor) -> str:
    """Tell from what has a gradient what the pass is for."""
    if not features.requires_grad:
        return FORWARD
    if images.requires_grad:
        return IMAGE
    if torch.backends.cuda.flash_sdp_enabled():
        return WEIGHT
    # Only second derivatives ask for attention as matrix products; along a direction the
    # parameters are sums, for Hessian-vector products they are leaves.
    return GRAPH if next(tower.parameters()).is_leaf else SECOND


@contextlib.contextmanager
def counted() -> Iterator[dict[str, int]]:
    """Yield kind -> images, filled while the block runs."""
    found: dict[str, int] = {}

    def note(kind: str, images: int) -> None:
        found[kind] = found.get(kind, 0) + images

    def hook(module: torch.nn.Module, inputs: Any, features: Any) -> None:
        if isinstance(module, VisionTransformer):
            note(kind_of(module, inputs[0], features), len(features))

    def with_tokens(genuine: Callable) -> Callable:
        def run(module: VisionTransformer, images: torch.Tensor, *rest: Any, **options: Any) -> Any:
            found = genuine(module, images, *rest, **options)
            note(kind_of(module, images, found["image_features"]), len(images))
            return found

        return run

    def operator(genuine: Callable) -> Callable:
        def build(*arguments: Any) -> Callable:
            before = found.get(GRAPH, 0)
            product = genuine(*arguments)
            images = found[GRAPH] - before

            def multiply(v: Any) -> Any:
                note(PRODUCT, images)
                return product(v)

            return multiply

        return build

    handle = register_module_forward_hook(hook)
    with pytest.MonkeyPatch.context() as patch:
        name = "forward_intermediates"  # a pass that no hook sees
        patch.setattr(VisionTransformer, name, with_tokens(getattr(VisionTransformer, name)))
        for module in (merge_path, sharpness):
            patch.setattr(module, "hessian_operator", operator(module.hessian_operator))
        try:
            yield found
        finally:
            handle.remove()
