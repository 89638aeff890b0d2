"""Agreement of gradients: closed forms, brute force over splits, and synthetic noise."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pistole.errors import UserError
from pistole.theory.agreement import Grams, agreement, sign_counts, trend
from pistole.theory.blocks import (
    block_gradients,
    block_positions,
    gram,
    half_samples,
    interval,
    mean_of_pairs,
    of_means,
    or_none,
)


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grams_of(clean: torch.Tensor, attacked: torch.Tensor) -> Grams:
    return Grams(gram(clean, clean), gram(clean, attacked), gram(attacked, attacked))


def everything(blocks: int) -> torch.Tensor:
    return torch.ones(1, blocks, dtype=torch.bool)


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a @ b / (a.norm() * b.norm())).item()


# Blocks


@pytest.mark.parametrize(("images", "blocks"), [(128, 16), (16, 16), (15, 14), (37, 16), (4, 4)])
def test_blocks_are_disjoint_of_one_size_and_even_ones_hold_the_even_positions(images, blocks):
    found = block_positions(images)
    assert len(found) == blocks
    assert {len(block) for block in found} == {images // blocks}
    flat = torch.cat(found)
    assert flat.unique().tolist() == list(range(images // blocks * blocks))
    for number, block in enumerate(found):
        assert set((block % 2).tolist()) == {number % 2}


def test_fewer_than_four_images_make_no_blocks():
    with pytest.raises(UserError, match=r"3 images cannot be split into 4 blocks: raise"):
        block_positions(3)
    assert len(block_positions(1000, most=5)) == 4


def test_block_gradients_are_those_of_each_block():
    found = block_gradients(lambda b: {"w": b.double().sum() * torch.ones(2)}, block_positions(8))
    assert [g["w"].tolist() for g in found] == [[float(i)] * 2 for i in range(8)]


def test_half_samples_are_halves_and_follow_their_seed():
    drawn = half_samples(7, 500, seed=1)
    assert set(drawn.sum(1).tolist()) == {3}
    assert torch.equal(drawn, half_samples(7, 500, seed=1))
    assert not torch.equal(drawn, half_samples(7, 500, seed=2))
    assert (drawn.double().mean(0) - 3 / 7).abs().max() < 0.08


def test_the_spread_over_halves_is_the_sampling_error_of_a_mean():
    x = normal(0, 16)
    drawn = half_samples(16, 20_000, seed=0).double()
    means = drawn @ x / 8
    expected = x.std() / math.sqrt(16)  # unbiased variance over n
    assert means.std().item() == pytest.approx(expected.item(), rel=0.02)


def test_pairs_and_means_against_sums_over_the_blocks():
    clean, attacked = normal(1, 5, 3), normal(2, 5, 3)
    chosen = torch.tensor([[True, True, False, True, True], [False, True, True, False, False]])
    grams = gram(clean, attacked)
    for row, pairs, means in zip(
        chosen, mean_of_pairs(grams, chosen), of_means(grams, chosen), strict=True
    ):
        members = row.nonzero().flatten().tolist()
        dots = [clean[i] @ attacked[j] for i, j in itertools.permutations(members, 2)]
        assert pairs.item() == pytest.approx((sum(dots) / len(dots)).item())
        expected = clean[members].mean(0) @ attacked[members].mean(0)
        assert means.item() == pytest.approx(expected.item())


def test_gram_takes_tensors_of_any_shape():
    a, b = normal(0, 4, 2, 3), normal(1, 4, 2, 3)
    assert torch.allclose(gram(a, b), torch.einsum("iab,jab->ij", a, b))


def test_interval_is_central_and_can_be_laid_around_the_estimate():
    values = torch.arange(1001, dtype=torch.float64)
    assert interval(values) == pytest.approx((25, 975))
    assert interval(values, about=0.0) == pytest.approx((-475, 475))
    broken = values.clone()
    broken[:100] = torch.nan
    assert interval(broken) == pytest.approx((122.5, 977.5))
    broken[100] = torch.nan
    assert interval(broken) is None
    assert interval(torch.tensor([])) is None


def test_or_none():
    assert or_none(0.5) == 0.5
    assert or_none(math.nan) is None
    assert or_none(-math.inf) is None


# Agreement


def test_two_known_gradients_without_noise():
    clean = torch.tensor([1.0, 0.0]).expand(6, 2)
    attacked = torch.tensor([3.0, 4.0]).expand(6, 2)
    found = agreement(grams_of(clean, attacked), everything(6))
    for name in ("cosine", "cross_cosine", "disattenuated"):
        assert getattr(found, name).item() == pytest.approx(0.6)
    assert found.self_cosine.item() == pytest.approx(1.0)


def test_the_closed_form_is_the_mean_over_all_splits_into_halves():
    clean, attacked = normal(3, 6, 4) + 1, normal(4, 6, 4) + 1
    dots, cross, norms = [], [], [[], []]
    for half in itertools.combinations(range(6), 3):
        rest = [i for i in range(6) if i not in half]
        c, a = ([side[list(half)].mean(0), side[rest].mean(0)] for side in (clean, attacked))
        dots.append(a[0] @ a[1])
        cross.append(c[0] @ a[1])
        norms[0].append(c[0] @ c[0])
        norms[1].append(a[0] @ a[0])
    same, across, c2, a2 = (torch.stack(v).mean().item() for v in (dots, cross, *norms))
    found = agreement(grams_of(clean, attacked), everything(6))
    assert found.self_cosine.item() == pytest.approx(same / a2)
    assert found.cross_cosine.item() == pytest.approx(across / math.sqrt(c2 * a2))


def test_disattenuation_is_cross_over_the_geometric_mean_of_the_self_cosines():
    clean, attacked = normal(5, 8, 4) + 2, normal(6, 8, 4) + 2
    grams = grams_of(clean, attacked)
    found = agreement(grams, everything(8))
    own = agreement(grams_of(clean, clean), everything(8)).self_cosine
    expected = found.cross_cosine / (own * found.self_cosine).sqrt()
    assert found.disattenuated.item() == pytest.approx(expected.item())


@pytest.mark.parametrize("true", [0.9, 0.5, -0.3])
@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_disattenuation_recovers_the_cosine_that_noise_hides(true, shared):
    d, blocks = 3000, 64
    signal = torch.zeros(2, d, dtype=torch.float64)
    signal[0, 0] = 1.0
    signal[1, :2] = torch.tensor([true, math.sqrt(1 - true**2)])
    noise = 0.1 * normal(7, 3, blocks, d)  # squared norm 30 per block against a signal of 1
    common = math.sqrt(shared) * noise[2]
    clean, attacked = (
        s + math.sqrt(1 - shared) * n + common for s, n in zip(signal, noise[:2], strict=True)
    )
    found = agreement(grams_of(clean, attacked), everything(blocks))
    assert found.disattenuated.item() == pytest.approx(true, abs=0.06)
    # The raw cosine is drawn to that of the noise, which the same images share in part.
    weight = 30 / blocks
    attenuated = (true + shared * weight) / (1 + weight)
    assert found.cosine.item() == pytest.approx(attenuated, abs=0.05)
    assert found.self_cosine.item() == pytest.approx(1 / (1 + 30 / 32), abs=0.06)


def test_nothing_is_disattenuated_where_noise_hides_the_direction():
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.1]])
    found = agreement(grams_of(opposite + 1, opposite), everything(4))
    assert found.self_cosine.item() < 0
    assert found.disattenuated.isnan().item()
    assert found.cosine.isfinite().item()


def test_gradients_that_vanish_have_no_cosine():
    found = agreement(grams_of(normal(0, 4, 3), torch.zeros(4, 3)), everything(4))
    assert all(getattr(found, name).isnan().item() for name in ("cosine", "disattenuated"))


def test_tiny_gradients_do_not_underflow():
    # Squared norms of 1e-200, whose product is no double.
    g = 1e-100 * torch.ones(4, 2, dtype=torch.float64)
    found = agreement(grams_of(g, g), everything(4))
    assert found.cosine.item() == pytest.approx(1)
    assert found.disattenuated.item() == pytest.approx(1)


def test_layers_add_up_to_the_whole_model():
    clean, attacked = normal(8, 6, 7), normal(9, 6, 7)
    parts = [grams_of(clean[:, s], attacked[:, s]) for s in (slice(0, 3), slice(3, 7))]
    whole = agreement(grams_of(clean, attacked), everything(6))
    found = agreement(parts[0] + parts[1], everything(6))
    assert torch.allclose(found.cosine, whole.cosine)
    assert found.cosine.item() == pytest.approx(cosine(clean.mean(0), attacked.mean(0)))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10_000), st.integers(4, 9), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_cosines_stay_in_their_range_and_ignore_scale(seed, blocks, first, second):
    clean, attacked = normal(seed, blocks, 5), normal(seed + 1, blocks, 5) + 0.5
    chosen = half_samples(blocks, 5, seed)
    found = agreement(grams_of(clean, attacked), chosen)
    scaled = agreement(grams_of(first * clean, second * attacked), chosen)
    for name in ("cosine", "self_cosine", "cross_cosine", "disattenuated"):
        a, b = getattr(found, name), getattr(scaled, name)
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-9, equal_nan=True)
    assert found.cosine.abs().max() <= 1 + 1e-9
    assert found.self_cosine.max() <= 1 + 1e-9
    same = agreement(grams_of(clean, clean), chosen)
    defined = same.disattenuated[same.disattenuated.isfinite()]
    assert torch.allclose(same.cosine, torch.ones(5, dtype=torch.float64))
    assert torch.allclose(defined, torch.ones_like(defined))


# Signs and trend


def test_signs_agree_where_neither_is_zero():
    a = torch.tensor([1.0, -2.0, 0.0, 3.0, 4.0])
    b = torch.tensor([5.0, 1.0, 1.0, 0.0, 2.0])
    assert sign_counts(a, b) == (2, 3)
    assert sign_counts(a, a) == (4, 4)
    assert sign_counts(a, -a) == (0, 4)
    assert sign_counts(a[:, None], torch.zeros(5, 1)) == (0, 0)


def test_trend_is_the_rank_correlation_with_the_radius():
    radii = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    curves = torch.tensor(
        [[1.0, 0.9, 0.1], [0.1, 0.2, 0.3], [1.0, 0.1, 0.5], [1.0, torch.nan, 0.1]],
        dtype=torch.float64,
    )
    found = trend(curves, radii)
    assert found[:3].tolist() == pytest.approx([-1, 1, -0.5])
    assert found[3].isnan().item()
