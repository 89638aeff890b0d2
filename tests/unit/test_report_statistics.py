"""Intervals against closed forms."""

import numpy as np
import pytest

from pistole.report.statistics import Interval, Paired, compare, mcnemar, measures, resample, wilson

RESAMPLES = 4000


def outcomes(images: int = 300, seed: int = 0) -> dict[str, np.ndarray]:
    """Three models on two tasks of different sizes; a broken image was right when clean."""
    source = np.random.default_rng(seed)
    made = {}
    for task, count in (("one", images), ("two", 3 * images)):
        clean = source.random((count, 3)) < (0.9, 0.7, 0.5)
        robust = clean & (source.random((count, 3)) < 0.6)
        made[task] = np.stack([clean, robust], axis=2)
    return made


def test_measures_weigh_tasks_alike() -> None:
    hit, miss = [[True, True]], [[True, False]]
    made = {"small": np.array([hit]), "large": np.array([miss, miss, miss])}
    assert measures(made).tolist() == [[1.0, 0.5, 1.5]]


def test_bootstrap_error_is_the_binomial_one() -> None:
    made = outcomes()
    samples = resample(made, RESAMPLES, seed=1)
    for kind in (0, 1):
        rates = [rows[:, :, kind].mean(axis=0) for rows in made.values()]
        counts = [len(rows) for rows in made.values()]
        variance = sum(p * (1 - p) / n for p, n in zip(rates, counts, strict=True)) / len(made) ** 2
        np.testing.assert_allclose(samples[:, :, kind].std(axis=0), variance**0.5, rtol=0.05)


def test_bootstrap_is_centred_on_the_measures() -> None:
    made = outcomes()
    samples = resample(made, RESAMPLES, seed=1)
    error = samples.std(axis=0) / RESAMPLES**0.5
    assert (np.abs(samples.mean(axis=0) - measures(made)) < 5 * error).all()
    np.testing.assert_allclose(samples[..., 2], samples[..., 0] + samples[..., 1], rtol=1e-12)


def test_tasks_are_drawn_apart() -> None:
    # All right on one task, all wrong on the other: within tasks nothing can vary.
    made = {"easy": np.ones((9, 1, 2), bool), "hard": np.zeros((5, 1, 2), bool)}
    assert (resample(made, 100, seed=0)[:, 0, 0] == 0.5).all()


def paired(made: dict[str, np.ndarray], names: str = "abc", resamples: int = RESAMPLES) -> Paired:
    return compare(list(names), made, resamples=resamples, seed=0)


def test_identical_models_differ_by_nothing() -> None:
    made = {task: rows[:, [0, 0]] for task, rows in outcomes().items()}
    assert set(paired(made, "ab").lead("a", "b").values()) == {Interval(0.0, 0.0, 0.0)}


def test_pairing_narrows_the_difference() -> None:
    made = {}
    for task, rows in outcomes().items():
        near = rows[:, 0].copy()
        near[:5] = True  # the same model but for five images
        made[task] = np.stack([near, rows[:, 0]], axis=1)
    both = paired(made, "ab")
    lead, first = both.lead("a", "b")["sum"], both.mean("a")["sum"]
    assert lead.high - lead.low < 0.5 * (first.high - first.low)
    assert lead.value == pytest.approx(first.value - both.mean("b")["sum"].value)
    assert lead.side == 1
    back = both.lead("b", "a")["sum"]
    assert (back.value, back.low, back.high) == pytest.approx((-lead.value, -lead.high, -lead.low))


def test_interval_covers_its_level() -> None:
    covered = 0
    truth = 0.9
    for seed in range(200):
        rows = np.random.default_rng(seed).random((200, 1)) < truth
        made = {"one": np.stack([rows, rows], axis=2)}
        clean = compare("a", made, resamples=400, seed=seed).mean("a")["clean_mean"]
        covered += clean.low <= truth <= clean.high
    assert 0.90 <= covered / 200 <= 0.99


def test_mean_of_models_is_taken_image_by_image() -> None:
    # b is right exactly where a is wrong: each varies, their mean is 1/2 on every image.
    a = np.random.default_rng(0).random((50, 1, 2)) < 0.6
    both = paired({"one": np.concatenate([a, ~a], axis=1)}, "ab")
    assert both.mean("ab")["clean_mean"] == Interval(0.5, 0.5, 0.5)
    assert both.mean("a")["clean_mean"].low < both.mean("a")["clean_mean"].high


def test_lead_over_a_mean_is_the_mean_lead() -> None:
    made = paired(outcomes())
    pooled, single = made.lead("a", "bc"), [made.lead("a", other) for other in "bc"]
    for key, lead in pooled.items():
        assert lead.value == pytest.approx(np.mean([one[key].value for one in single]))
    others = outcomes()
    for rows in others.values():
        rows[:, 2] = rows[:, 1]  # then the mean is b itself
    made = paired(others)
    assert made.lead("a", "bc") == made.lead("a", "b")


def test_share_of_a_gain() -> None:
    source = np.random.default_rng(0)
    base = np.zeros((4000, 1, 2), bool)
    whole = base.copy()
    whole[:2000] = True
    part = whole & (source.random(whole.shape) < 0.25)
    made = paired({"one": np.concatenate([base, part, whole], axis=1)}, "bpw")
    share = made.share("p", "w", "b")
    assert share.value == pytest.approx(made.mean("p")["sum"].value / 1.0)
    # Of 4000 answers that the whole gains the part gains a quarter, binomially.
    sd = (0.25 * 0.75 / 4000) ** 0.5
    assert (share.low, share.high) == pytest.approx(
        (share.value - 1.96 * sd, share.value + 1.96 * sd), abs=0.15 * sd
    )
    assert made.share("w", "w", "b") == Interval(1.0, 1.0, 1.0)
    assert made.share("b", "w", "b") == Interval(0.0, 0.0, 0.0)


def test_share_of_a_doubtful_gain_is_unbounded() -> None:
    # 6 gained, 4 lost: a good part of the resamples has no gain at all.
    base, whole, part = (np.zeros((40, 2), bool) for _ in range(3))
    whole[:6], base[6:10], part[:20] = True, True, True
    made = paired({"one": np.stack([base, part, whole], axis=1)}, "bpw")
    share = made.share("p", "w", "b")
    assert share.value == pytest.approx((20 - 4) / 2)
    assert share.high == np.inf
    assert share.low > 0


def test_no_gain_has_no_shares() -> None:
    with pytest.raises(ValueError, match="no shares"):
        paired(outcomes()).share("b", "c", "a")


def test_same_seed_same_draws() -> None:
    made = outcomes(50)
    assert (resample(made, 50, seed=3) == resample(made, 50, seed=3)).all()
    assert (resample(made, 50, seed=3) != resample(made, 50, seed=4)).any()


def test_wilson_against_published_values() -> None:
    # Newcombe 1998, table I: 81 of 263 and 15 of 148.
    for hits, trials, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        interval = wilson(hits, trials)
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_wilson_at_the_ends() -> None:
    z = 1.959963984540054
    assert wilson(0, 20) == Interval(0.0, 0.0, pytest.approx(z * z / (20 + z * z)))
    assert wilson(20, 20) == Interval(1.0, pytest.approx(20 / (20 + z * z)), 1.0)


@pytest.mark.parametrize(("hits", "trials"), [(1, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(hits: int, trials: int) -> None:
    with pytest.raises(ValueError, match="successes in"):
        wilson(hits, trials)


@pytest.mark.parametrize(
    ("low", "high", "side"), [(0.1, 0.2, 1), (-0.2, -0.1, -1), (-0.1, 0.1, 0), (0, 0, 0)]
)
def test_side_of_zero(low: float, high: float, side: int) -> None:
    assert Interval(0.0, low, high).side == side


@pytest.mark.parametrize(
    ("only", "other", "both", "expected"),
    [
        (0, 0, 5, 1.0),
        (3, 3, 0, 1.0),
        (5, 0, 10, 2 / 2**5),
        (0, 5, 10, 2 / 2**5),
        (9, 1, 4, 2 * (1 + 10) / 2**10),
    ],
)
def test_mcnemar_is_the_exact_two_sided_test_of_the_discordant_images(only, other, both, expected):
    first = np.array([True] * only + [False] * other + [True] * both + [False] * 3)
    second = np.array([False] * only + [True] * other + [True] * both + [False] * 3)
    assert mcnemar(first, second) == (only, other, pytest.approx(expected))
