"""The tokens of a vision transformer in the space of its embeddings."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pistole.errors import UserError


def projected_tokens(
    visual: nn.Module, images: Float[Tensor, "n 3 s s"]
) -> tuple[Float[Tensor, "n e"], Float[Tensor, "n t e"]]:
    """Return a ViT's embedding and its last block's tokens after ``ln_post`` and ``proj``.

    open_clip's own pass computes both at once (docs/method.md B.0, TGA-ZSR).

    Args:
        visual: open_clip's ``VisionTransformer``.
        images: normalised, at the tower's input size.

    Returns:
        The embedding f(x), and the class token followed by the patches row by row.

    Raises:
        UserError: the tower is no such ViT: its patches have no place in the text's space.
    """
    from open_clip.transformer import VisionTransformer  # takes seconds to import

    if not isinstance(visual, VisionTransformer):
        raise UserError(
            f"the visual tower is a {type(visual).__name__}, which has no patch tokens in the "
            "space of the texts: attention maps (objective tga) need an open_clip ViT; "
            "use tecoa, fare or pmg"
        )
    if visual.attn_pool is not None or visual.proj is None:
        raise UserError(
            "the visual tower is a ViT with attentional pooling or without a projection, whose "
            "patch tokens are not in the space of the texts: use tecoa, fare or pmg, not tga"
        )
    found = visual.forward_intermediates(
        images, indices=1, normalize_intermediates=True, output_fmt="NLC", output_extra_tokens=True
    )
    (patches,), (first,) = found["image_intermediates"], found["image_intermediates_prefix"]
    return found["image_features"], torch.cat([first, patches], dim=1) @ visual.proj
