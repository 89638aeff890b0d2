"""Projected tokens: open_clip's own pass, and which towers have them."""

import pytest
import torch

from pistole.errors import UserError
from pistole.models.tokens import projected_tokens
from tests.unit.zeroshot_models import pictures, visual_tower, zero_shot


def test_tokens_are_the_last_blocks_after_norm_and_projection():
    tower, (x, _) = visual_tower(), pictures(3)
    features, tokens = projected_tokens(tower, x)
    assert tokens.shape == (3, 5, 12)
    hidden = tower.transformer(tower._embeds(x))
    torch.testing.assert_close(tokens, tower.ln_post(hidden) @ tower.proj)
    torch.testing.assert_close(features, tower(x))
    torch.testing.assert_close(tokens[:, 0], features)  # this tower pools the class token


def test_patches_come_row_by_row():
    # Without position and attention's mixing, the token of a patch sees that patch alone.
    tower = visual_tower()
    with torch.no_grad():
        tower.positional_embedding.zero_()
        for block in tower.transformer.resblocks:
            block.attn.out_proj.weight.zero_()
    x = torch.zeros(1, 3, 16, 16)
    x[0, :, :8, 8:] = 1  # upper right
    _, tokens = projected_tokens(tower, x)
    patches = tokens[0, 1:]
    assert not torch.allclose(patches[1], patches[0], atol=1e-3)
    torch.testing.assert_close(patches[2], patches[0])
    torch.testing.assert_close(patches[3], patches[0])


def test_a_classifier_gives_them_of_images_in_the_pixel_range():
    model, (x, _) = zero_shot(), pictures(3, side=24)
    features, tokens = model.tokens(x)
    torch.testing.assert_close(features, model.embed(x))
    assert tokens.shape == (3, 5, 12)
    assert torch.equal(model(x), model.classify(model.embed(x)))


def test_other_towers_are_refused():
    with pytest.raises(UserError, match="a Linear, which has no patch tokens"):
        projected_tokens(torch.nn.Linear(2, 2), torch.zeros(1, 3, 16, 16))
