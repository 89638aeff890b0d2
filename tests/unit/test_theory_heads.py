"""Heads as slices of real towers, against hooks; swaps; blocks by depth."""

import math

import pytest
import torch
from torch import Tensor, nn

from pistole.models.towers import build_visual
from pistole.theory.ablation import answers, functional_sensitivity, head_swaps
from pistole.theory.depth import blocks_by_depth, cut_points, moved_in
from pistole.theory.heads import attentions, head_slice, with_head_of, without_head

TEXT = {"context_length": 4, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
VIT = {"image_size": 16, "layers": 2, "width": 24, "head_width": 8, "patch_size": 8}
CONFIGS = {
    "open_clip": {"embed_dim": 8, "vision_cfg": VIT, "text_cfg": TEXT},
    "custom": {"embed_dim": 8, "vision_cfg": VIT | {"block_type": "custom"}, "text_cfg": TEXT},
    "timm": {
        "embed_dim": 8,
        "vision_cfg": {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token"},
        "text_cfg": TEXT,
    },
    "cnn": {
        "embed_dim": 8,
        "vision_cfg": {"timm_model_name": "efficientnet_lite0", "timm_pool": "avg"},
        "text_cfg": TEXT,
    },
}
SIDE = {"open_clip": 16, "custom": 16, "timm": 32, "cnn": 32}
HEADS = {"open_clip": (2, 3), "custom": (2, 3), "timm": (12, 3)}  # layers, heads of each


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def towers() -> dict[str, nn.Module]:
    """Real towers with weights that differ between heads."""
    built = {}
    for name in (*HEADS, "cnn"):
        visual = build_visual(CONFIGS[name], SIDE[name], name).double()
        with torch.no_grad():
            for number, value in enumerate(visual.parameters()):
                value.add_(0.05 * normal(number, *value.shape))
        built[name] = visual
    return built


def features(visual: nn.Module, theta: dict[str, Tensor], x: Tensor) -> Tensor:
    return torch.func.functional_call(visual, theta, (x,))


def images(name: str) -> Tensor:
    return normal(99, 3, 3, SIDE[name], SIDE[name])


def attention_of_some_heads(
    x: Tensor, weight: Tensor, bias: Tensor, out: nn.Linear, heads: int, without: int
) -> Tensor:
    """Softmax attention written out, [n, tokens, width], one head's output zeroed."""
    q, k, v = ((x @ w.T + b).unflatten(-1, (heads, -1)).transpose(1, 2)
               for w, b in zip(weight.chunk(3), bias.chunk(3), strict=True))  # fmt: skip
    mixed = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v
    mixed[:, without] = 0
    return mixed.transpose(1, 2).flatten(-2) @ out.weight.T + out.bias


@pytest.mark.parametrize("name", HEADS)
def test_zeroing_columns_is_zeroing_the_heads_output(towers, name):
    visual, x = towers[name], images(name)
    theta = dict(visual.named_parameters())
    found = attentions(visual)
    assert [layer.heads for layer in found] == [HEADS[name][1]] * HEADS[name][0]
    layer, module = found[1], dict(visual.named_modules())[found[1].layer]
    weight, bias, out = (
        (module.qkv.weight, module.qkv.bias, module.proj)
        if name == "timm"
        else (module.in_proj_weight, module.in_proj_bias, module.out_proj)
    )
    whole = features(visual, theta, x)
    for head in range(layer.heads):

        def replace(_: nn.Module, inputs: tuple, output: object, head: int = head) -> object:
            made = attention_of_some_heads(inputs[0], weight, bias, out, layer.heads, head)
            return (made, None) if isinstance(output, tuple) else made

        handle = module.register_forward_hook(replace)
        hooked = visual(x)
        handle.remove()
        ours = features(visual, without_head(theta, layer, head), x)
        assert torch.allclose(ours, hooked, atol=1e-9)
        assert not torch.allclose(ours, whole, atol=1e-6)
    assert torch.equal(features(visual, theta, x), whole)  # nothing was changed in place


@pytest.mark.parametrize("name", HEADS)
def test_the_heads_of_a_layer_share_its_tensors_out_completely(towers, name):
    theta = {n: v.detach() for n, v in towers[name].named_parameters()}
    other = {n: v + 1 for n, v in theta.items()}
    for layer in attentions(towers[name]):
        mixed, sizes = dict(theta), 0
        for head in range(layer.heads):
            before = {n: v.clone() for n, v in mixed.items()}
            mixed = with_head_of(mixed, other, layer, head)
            changed = sum(int((mixed[n] != before[n]).sum()) for n in mixed)
            assert changed == head_slice(theta, layer, head).numel()
            sizes += changed
        own = (layer.packed, layer.bias, layer.out)
        assert sizes == sum(theta[n].numel() for n in own)
        for n in theta:
            assert torch.equal(mixed[n], other[n] if n in own else theta[n])


def test_a_swapped_head_attends_as_the_other_model_does(towers):
    # All heads but one are silenced, so the layer is that head alone.
    visual, x = towers["open_clip"], images("open_clip")
    theta = {n: v.detach() for n, v in visual.named_parameters()}
    other = {n: v + 0.1 * normal(5, *v.shape) for n, v in theta.items()}
    layer = attentions(visual)[0]
    own = (layer.packed, layer.bias, layer.out)
    whole = theta | {n: other[n] for n in own}
    for silent in (1, 2):
        whole = without_head(whole, layer, silent)
    swapped = with_head_of(theta, other, layer, 0)
    for silent in (1, 2):
        swapped = without_head(swapped, layer, silent)
    assert torch.allclose(features(visual, swapped, x), features(visual, whole, x), atol=1e-10)


def test_towers_without_packed_heads_have_none(towers):
    assert attentions(towers["cnn"]) == []
    assert attentions(nn.Linear(3, 3)) == []


# Sensitivity and swaps, with the classifier written out


def test_functional_sensitivity_is_the_divergence_without_the_head(towers):
    visual, x = towers["open_clip"], images("open_clip")
    theta = {n: v.detach() for n, v in visual.named_parameters()}
    heads = [(layer, k) for layer in attentions(visual) for k in range(layer.heads)]

    def log_probs(point: dict[str, Tensor]) -> Tensor:
        return features(visual, point, x).log_softmax(1)

    found = functional_sensitivity(log_probs, theta, heads)
    assert found.shape == (6, 3)
    before = log_probs(theta)
    for row, (layer, k) in zip(found, heads, strict=True):
        after = log_probs(without_head(theta, layer, k))
        expected = nn.functional.kl_div(after, before, log_target=True, reduction="none").sum(1)
        assert torch.allclose(row, expected)
    assert (found > 0).all()
    silent = without_head(theta, *heads[2])
    assert functional_sensitivity(log_probs, silent, heads[2:3]).abs().max() < 1e-12


def test_swaps_tell_what_changes_with_each_source(towers):
    visual, x = towers["open_clip"], images("open_clip")
    theta = {n: v.detach() for n, v in visual.named_parameters()}
    far = {n: v + normal(3, *v.shape) for n, v in theta.items()}
    heads = [(layer, k) for layer in attentions(visual) for k in range(layer.heads)]
    labels = torch.tensor([0, 1, 2])

    def ask(point: dict[str, Tensor]):
        clean, attacked = (features(visual, point, z).log_softmax(1) for z in (x, -x))
        return answers(clean, attacked, labels)

    rows = head_swaps(ask, theta, {"same": theta, "far": far}, heads)
    assert len(rows) == 6
    for row, (layer, k) in zip(rows, heads, strict=True):
        assert row["loss_same"] == row["sum_same"] == 0
        after = ask(with_head_of(theta, far, layer, k))
        assert row["loss_far"] == pytest.approx(after.loss - ask(theta).loss)
        assert row["sum_far"] == pytest.approx(after.accuracy - ask(theta).accuracy)
        assert row["loss_impact"] == pytest.approx(abs(row["loss_far"]) / 2)
        assert row["sum_impact"] == pytest.approx(abs(row["sum_far"]) / 2)
    assert len({row["loss_far"] for row in rows}) == 6


def test_answers_need_the_clean_image_right_for_robustness():
    clean = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]).log_softmax(1)
    attacked = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]).log_softmax(1)
    found = answers(clean, attacked, torch.tensor([0, 0, 0]))
    assert found.clean_right.tolist() == [True, False, True]
    assert found.robust_right.tolist() == [False, False, True]
    means = found.means()
    assert means["clean"] == pytest.approx(2 / 3)
    assert means["robust"] == pytest.approx(1 / 3)
    assert found.accuracy == pytest.approx(1)
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    assert means["clean_loss"] == pytest.approx((2 * right + wrong) / 3, rel=1e-6)
    assert found.loss == pytest.approx(means["clean_loss"] + means["robust_loss"])


# Depth


def test_blocks_of_real_towers_by_depth(towers):
    names = [n for n, _ in towers["open_clip"].named_parameters()]
    found = blocks_by_depth(names)
    assert list(found) == ["transformer.resblocks.0", "transformer.resblocks.1"]
    first, last = found.values()
    assert {"conv1.weight", "class_embedding", "positional_embedding", "ln_pre.bias"} < set(first)
    assert {"proj", "ln_post.weight"} < set(last)
    assert sorted(first + last) == sorted(names)

    names = [n for n, _ in towers["cnn"].named_parameters()]
    found = blocks_by_depth(names)
    assert len(found) == 16
    assert next(iter(found)) == "trunk.blocks.0.0"
    assert "trunk.conv_stem.weight" in found["trunk.blocks.0.0"]
    assert {"trunk.conv_head.weight", "head.proj.weight"} < set(list(found.values())[-1])
    assert sorted(n for part in found.values() for n in part) == sorted(names)


def test_a_tower_without_numbered_blocks_is_one_block():
    assert blocks_by_depth(["proj", "conv.weight"]) == {"all": ["conv.weight", "proj"]}
    between = blocks_by_depth(["a.0.w", "norm.w", "a.1.w", "proj", "last.w"])
    assert between == {"a.0": ["a.0.w", "norm.w"], "a.1": ["a.1.w", "last.w", "proj"]}


@pytest.mark.parametrize(
    ("blocks", "cuts"),
    [
        (1, [0, 1]),
        (2, [0, 1, 2]),
        (3, [0, 1, 2, 3]),
        (4, [0, 1, 2, 3, 4]),
        (24, [0, 6, 12, 18, 24]),
    ],
)
def test_cut_points(blocks, cuts):
    assert cut_points(blocks, 3) == cuts


def test_moved_in_moves_the_named_tensors_only():
    theta = {"a": torch.ones(2), "b": torch.ones(2)}
    found = moved_in(theta, {"a": torch.full((2,), 3.0), "b": torch.ones(2)}, ["a"])
    assert found["a"].tolist() == [4, 4]
    assert found["b"].tolist() == [1, 1]
    assert theta["a"].tolist() == [1, 1]
