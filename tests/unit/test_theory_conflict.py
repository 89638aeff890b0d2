"""The conflict map's parts: head slices against hooks on real towers, and known statistics."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pistole.errors import UserError
from pistole.models.towers import build_visual
from pistole.theory.ablation import answers, functional_sensitivity, head_swaps
from pistole.theory.agreement import Grams
from pistole.theory.blocks import gram, half_samples
from pistole.theory.concentration import (
    HeadMap,
    chance_top_share,
    concentration,
    head_map,
    overlap,
    rank_correlation,
)
from pistole.theory.conflict import (
    chance_jaccard,
    cosine,
    divergence,
    gini,
    jaccard,
    optimisation_conflict,
    rank_product,
    top_count,
    top_parts,
    top_share,
)
from pistole.theory.conflict_summary import Found, Halfway, summarise
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


# Statistics of a map


def test_conflict_of_known_directions():
    a = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert cosine(a, a) == 1
    assert cosine(a, -2 * a) == -1
    assert cosine(a, a.T.flip(0)) == 0
    assert math.isnan(cosine(a, 0 * a))
    found = optimisation_conflict(torch.tensor([1.0, -1.0, 0.0, torch.nan]))
    assert found.tolist() == [0, 1, 0.5, 0]


def test_gini_of_known_vectors():
    vectors = torch.tensor([[0.0, 0, 0, 1], [1, 1, 1, 1], [1, 2, 3, 4], [4, 2, 3, 1]])
    assert gini(vectors).tolist() == pytest.approx([0.75, 0, 0.25, 0.25])
    assert gini(torch.zeros(3)).isnan()


@settings(deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=12), st.floats(0.1, 10))
def test_gini_is_the_mean_difference_and_ignores_scale(values, scale):
    x = torch.tensor(values, dtype=torch.float64)
    pairs = (x[:, None] - x).abs().sum() / (2 * len(x) ** 2 * x.mean())
    assert gini(x).item() == pytest.approx(pairs.item(), abs=1e-9)
    assert gini(scale * x).item() == pytest.approx(gini(x).item(), abs=1e-9)
    assert 0 <= gini(x).item() + 1e-12 <= 1 - 1 / len(x) + 1e-9


def test_top_parts():
    values = torch.tensor([0.1, 0.5, 0.5, 0.3])
    assert top_parts(values, 1).tolist() == [False, True, False, False]  # ties: the earlier
    assert top_parts(values, 3).tolist() == [False, True, True, True]
    assert top_share(values, 2).item() == pytest.approx(1 / 1.4)
    assert top_share(torch.zeros(3), 1).isnan()
    asked = [(16, 0.1), (12, 0.1), (20, 0.1), (3, 0.01), (100, 0.07)]  # 100 x 0.07 > 7 by round-off
    assert [top_count(n, share) for n, share in asked] == [2, 2, 2, 1, 7]


def test_overlap_and_its_chance_level():
    a, b = torch.tensor([True, True, False, False]), torch.tensor([False, True, True, False])
    assert jaccard(a, b) == pytest.approx(1 / 3)
    assert jaccard(a, a) == 1
    assert jaccard(a, ~a) == 0
    assert jaccard(a & ~a, a & ~a) == 1
    sets = [set(s) for s in itertools.combinations(range(5), 2)]
    every = [len(s & t) / len(s | t) for s in sets for t in sets]
    assert chance_jaccard(5, 2) == pytest.approx(sum(every) / len(every))
    assert chance_jaccard(4, 4) == pytest.approx(1)
    with pytest.raises(UserError, match="5 of 4 parts make no set"):
        chance_jaccard(4, 5)
    maps = torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0], [0, 2, 3, 0]])
    assert overlap(maps, 2) == {
        "jaccard": pytest.approx((1 + 1 / 3 + 1 / 3) / 3),
        "chance": pytest.approx(chance_jaccard(4, 2)),
    }


def test_rank_product():
    a, b = torch.tensor([0.1, 5.0, 0.3]), torch.tensor([100.0, 300.0, 200.0])
    assert rank_product(a, b).tolist() == pytest.approx([1 / 9, 1, 4 / 9])
    tied = rank_product(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0]))
    assert tied.tolist() == pytest.approx([1.5 / 4, 3 / 4])
    stacked = rank_product(torch.stack([a, -a]), torch.stack([b, b]))
    assert torch.equal(stacked[1], rank_product(-a, b))


def test_divergence():
    p, q = (normal(s, 4, 6).log_softmax(1) for s in (1, 2))
    expected = nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(1)
    assert torch.allclose(divergence(p, q), expected)
    assert divergence(p, p).abs().max() == 0


def test_head_map_is_made_from_the_chosen_blocks():
    clean, robust = normal(1, 3, 6, 4), normal(2, 3, 6, 4)  # heads, blocks, coordinates
    grams = [Grams(gram(c, c), gram(c, r), gram(r, r)) for c, r in zip(clean, robust, strict=True)]
    sensitivity = normal(3, 3, 6).abs()
    chosen = half_samples(6, 4, seed=0)
    found = head_map(grams, sensitivity, chosen)
    for row, blocks in enumerate(chosen):
        for head in range(3):
            c, r = (side[head, blocks].mean(0) for side in (clean, robust))
            assert found.conflict[row, head].item() == pytest.approx((1 - cosine(c, r)) / 2)
        assert torch.allclose(found.sensitivity[row], sensitivity[:, blocks].mean(1))
    assert torch.equal(found.mass, found.conflict * found.sensitivity)
    assert torch.equal(found.score, rank_product(found.conflict, found.sensitivity))


def test_concentration_and_what_ranks_give_by_construction():
    whole = torch.tensor([[0.0, 0, 0, 1]])
    found = concentration(whole, whole.expand(50, 4), 1)
    assert (found["gini"], found["top_share"]) == (0.75, 1)
    assert found["top_share_ci95"] == pytest.approx([1, 1])
    nothing = concentration(0 * whole, 0 * whole.expand(50, 4), 1)
    assert set(nothing.values()) == {None}
    # Independent ranks: E[r s / sum r s] of the largest of two heads is 4/5 or 2/4.
    assert chance_top_share(2, 1, seed=0) == pytest.approx((4 / 5 + 2 / 4) / 2, abs=0.02)
    assert chance_top_share(5, 5, seed=0) == pytest.approx(1)


def test_rank_correlation_over_heads():
    x = torch.arange(20, dtype=torch.float64)
    found = rank_correlation(x, x.exp(), seed=0)
    assert found["spearman"] == pytest.approx(1)
    assert found["spearman_ci95"] == pytest.approx([1, 1])
    assert rank_correlation(0 * x, x, seed=0) == {"spearman": None, "spearman_ci95": None}
    assert rank_correlation(x[:2], x[:2], seed=0)["spearman"] is None


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


# Verdicts


def found_of(
    mass: Tensor, conflict: Tensor, effect: Tensor, noise: float = 0.01, halfway: float = -1.0
) -> Found:
    """A map whose mass, conflict and effects are given, with a little spread."""
    sensitivity = mass / conflict

    def maps(rows: int) -> HeadMap:
        wobble = 1 + noise * normal(7, rows, len(mass)) * (rows > 1)
        return HeadMap(conflict.expand(rows, -1), (sensitivity * wobble).abs())

    both = {"whole": maps(1), "halves": maps(200), "parts": maps(2)}
    score = both["whole"].score[0]
    rows = [
        {
            "level": "head",
            "score_base": score[i].item(),
            "score_merged": score[i].item(),
            "oc_base": conflict[i].item(),
            "fs_base": sensitivity[i].item(),
            "tc": None,
            "loss_impact": effect[i].item(),
            "sum_impact": effect[i].item(),
        }
        for i in range(len(mass))
    ]
    losses = torch.ones(20, dtype=torch.float64), 1 + 0.01 * normal(0, 20)
    return Found(
        images=20,
        heads=rows,
        maps={"base": both, "merged": both},
        other_attack=both["whole"],
        prefix=[{"end": "first", "blocks": 2, "of": 4}],
        halfway=Halfway(2, losses[0] + halfway, losses[1]),
    )


FEW = torch.tensor([9.0, 8.0, *[0.1] * 28], dtype=torch.float64)
RISING = torch.linspace(0.1, 0.9, 30, dtype=torch.float64)
FALLING = RISING.flip(0)
EVEN = torch.ones(30, dtype=torch.float64)
NOISE = 0.5 + 0.4 * normal(4, 30).tanh()


@pytest.mark.parametrize(
    ("mass", "conflict", "effect", "few", "matters", "verdict"),
    [
        (FEW * FALLING, FALLING, FALLING, "holds", "holds", "holds"),
        (EVEN * FALLING, FALLING, FALLING, "fails", "holds", "fails"),
        (FEW * FALLING, FALLING, RISING, "holds", "fails", "fails"),
        # The score goes with the effect, conflict alone against it.
        (FEW * 0 + RISING**9, FALLING, RISING, "holds", "fails", "fails"),
        (FEW * FALLING, FALLING, normal(4, 30), "holds", "undecided", "undecided"),
        # Sensitivity alone makes the score go with the effect.
        (NOISE * RISING, NOISE, RISING, "fails", "undecided", "fails"),
    ],
)
def test_the_claim_needs_concentration_and_an_effect_of_conflict(
    mass, conflict, effect, few, matters, verdict
):
    found = summarise(found_of(mass, conflict, effect), top=0.1, seed=0)
    assert (found["heads"], found["top_heads"]) == (30, 3)
    assert (found["concentrated"], found["matters"]) == (few, matters)
    assert found["verdict"] == verdict
    assert found["statement"].endswith(".")
    assert found["mass"]["even_top_share"] == 0.1
    assert found["overlap"]["attack"]["jaccard"] == 1
    assert len(found["correlations"]) == 10


def test_wide_intervals_decide_nothing_about_concentration():
    mass = torch.tensor([1.0, 1, 1, *[0.11] * 27], dtype=torch.float64) * FALLING.round()
    noisy = found_of(mass + 0.05, FALLING, FALLING, noise=3.0)
    assert summarise(noisy, top=0.1, seed=0)["concentrated"] == "undecided"


@pytest.mark.parametrize(
    ("halfway", "verdict"),
    [(-1.0, "holds"), (1.0, "fails"), (0.002, "undecided"), (-0.002, "undecided")],
)
def test_the_depth_that_robustness_sits_in(halfway, verdict):
    found = summarise(found_of(FEW, FALLING, FALLING, halfway=halfway), top=0.1, seed=0)
    assert found["shallow_verdict"] == verdict
    gap = found["shallow_minus_deep"]
    assert gap["low"] < gap["robust_loss"] < gap["high"]
    assert gap["robust_loss"] == pytest.approx(halfway, abs=0.01)
    assert gap["blocks"] == 2


def test_a_tower_without_heads_is_said_to_have_none():
    ones = torch.ones(4)
    bare = Found(4, [], {}, None, [], Halfway(1, ones, ones))
    found = summarise(bare, top=0.1, seed=0)
    assert found["verdict"] == "undecided"
    assert "no attention heads in this tower" in found["statement"]
    assert found["heads"] == 0
    assert found["shallow_minus_deep"] is None
