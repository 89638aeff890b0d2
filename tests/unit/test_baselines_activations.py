"""Inputs of linear layers: all are seen, also those that no hook tells, and nothing is changed."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pistole.baselines.activations import Grams, LinearInputs
from pistole.models.zeroshot import functional_logits, parameters_of
from tests.unit.zeroshot_models import pictures, visual_tower, zero_shot


def seen_in(model: nn.Module, *inputs: Tensor) -> dict[str, tuple[Tensor, int]]:
    """Name -> rows and axis of what one pass shows."""
    found = {}
    theta = dict(model.named_parameters())
    with (
        torch.no_grad(),
        LinearInputs(theta, lambda n, rows, axis: found.update({n: (rows, axis)})),
    ):
        model(*inputs)
    return found


def test_a_vit_shows_every_linear_layer():
    model, (x, _) = zero_shot(), pictures(3)
    theta = parameters_of(model)
    found = {}
    with (
        torch.no_grad(),
        LinearInputs(theta, lambda n, rows, axis: found.update({n: (rows, axis)})),
    ):
        logits = functional_logits(model, theta, x)
    blocks = [f"transformer.resblocks.{i}." for i in range(2)]
    inner = ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    expected = {"conv1.weight", "proj", *(block + name for block in blocks for name in inner)}
    assert found.keys() == expected
    for name, (rows, axis) in found.items():
        matrix = theta[name].flatten(1)
        assert axis == (0 if name == "proj" else 1)
        tokens = {"proj": 1, "conv1.weight": 4}.get(name, 5)
        assert rows.shape == (3 * tokens, matrix.shape[axis])
    torch.testing.assert_close(logits, functional_logits(model, theta, x), rtol=0, atol=0)


def test_the_inputs_are_those_of_the_layers():
    tower, (x, _) = visual_tower(), pictures(3)
    block = tower.transformer.resblocks[1]
    outputs = {}
    for name, module in (("ln_1", block.ln_1), ("attn", block.attn), ("conv", tower.conv1)):
        module.register_forward_hook(lambda m, i, o, name=name: outputs.update({name: o}))
    found = seen_in(tower, x)
    prefix = "transformer.resblocks.1."
    same = torch.testing.assert_close
    same(
        found[prefix + "attn.in_proj_weight"][0].sort(0)[0],
        outputs["ln_1"].flatten(0, 1).sort(0)[0],
    )
    mixed = found[prefix + "attn.out_proj.weight"][0]
    attended = functional.linear(mixed, block.attn.out_proj.weight, block.attn.out_proj.bias)
    # Attention works with tokens first.
    same(attended.unflatten(0, (5, 3)).transpose(0, 1), outputs["attn"][0])
    patches = found["conv1.weight"][0] @ tower.conv1.weight.flatten(1).T
    same(patches.unflatten(0, (3, 4)).transpose(1, 2), outputs["conv"].flatten(2))


class Odd(nn.Module):
    """Layers that a ViT lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.cross = nn.MultiheadAttention(4, 2, kdim=3, vdim=5, batch_first=True)
        self.packed = nn.MultiheadAttention(4, 2, batch_first=True)
        self.overlapping = nn.Conv2d(2, 2, 2, stride=1)
        self.grouped = nn.Conv2d(2, 2, 2, stride=2, groups=2)
        self.matrix = nn.Parameter(torch.eye(4))
        self.unused = nn.Parameter(torch.eye(4))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, image: Tensor) -> Tensor:
        self.grouped(self.overlapping(image))
        mixed = self.cross(q, k, v)[0]
        return self.packed(mixed, q, q)[0][0, 0] @ self.matrix


def test_layers_with_inputs_of_their_own_and_layers_that_are_none():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Odd()
        q, k, v = torch.randn(2, 3, 4), torch.randn(2, 6, 3), torch.randn(2, 6, 5)
        image = torch.randn(1, 2, 5, 5)
    found = seen_in(model, q, k, v, image)
    weights = {f"cross.{n}_proj_weight": x for n, x in (("q", q), ("k", k), ("v", v))}
    # Of attention over other tokens the packed weight has two inputs, and so no one Gram matrix.
    assert found.keys() == {*weights, "cross.out_proj.weight", "packed.out_proj.weight", "matrix"}
    for name, x in weights.items():
        torch.testing.assert_close(found[name][0].sort(0)[0], x.flatten(0, 1).sort(0)[0])
    assert found["matrix"][0].shape == (1, 4)


def test_gram_matrices_do_not_depend_on_the_batches():
    rows = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    for size in (1, 3, 7):
        grams = Grams()
        for part in rows.split(size):
            grams.visit("w", part, 1)
        assert grams.mean("w").dtype == torch.float64
        torch.testing.assert_close(grams.mean("w"), rows.double().T @ rows.double() / 7)
        assert grams.axes == {"w": 1}


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_with_returned_maps_is_unchanged(batch_first):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = nn.MultiheadAttention(4, 2, batch_first=batch_first), torch.randn(2, 3, 4)
        torch.nn.init.normal_(model.out_proj.bias)
    expected = model(x, x, x)
    with LinearInputs(dict(model.named_parameters()), lambda *seen: None):
        found = model(x, x, x)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
