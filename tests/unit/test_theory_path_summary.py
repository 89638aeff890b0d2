"""What synthetic curves say of the three claims on the merge path (docs/method.md E.3)."""

import pytest
import torch

from pistole.theory.path import Point
from pistole.theory.path_summary import Setting, summarise
from pistole.theory.spectrum import Spectrum

LAMBDAS = (0.0, 0.2, 0.5, 1.0)
ABOUT = Setting(images=32, eta=0.005, probes=2, pairs=4, iterations=6, resamples=200, seed=0)
FLAT = (2.0, 1.0, 3.0, 5.0)  # PISTOLE's curve: lowest at 0.2
SUMS = {0.0: 0.9, 0.2: 1.0, 0.5: 0.8, 1.0: 0.5}  # falls as FLAT rises


def curve(
    method: str,
    means: tuple[float, ...],
    *,
    loss: str,
    size: float = 0.1,
    distances: tuple[float, ...] = (4.0, 3.0, 2.0, 1.0),
    held: bool = True,
) -> list[Point]:
    """Points with the given traces; the sharpness is half of them, the eigenvalue their double."""
    source = torch.Generator().manual_seed(sum(map(ord, method)))
    points = []
    for lam, mean, far in zip(LAMBDAS, means, distances, strict=True):
        noise = torch.randn(16, generator=source, dtype=torch.float64) * size
        values = mean + noise - noise.mean()
        ends = Spectrum(2 * mean, 0.1, -1.0, 0.1)
        accuracy = (SUMS[lam] - 0.1, 0.1) if held else None
        points.append(Point(method, lam, loss, far, 1.0, values, values / 2, ends, accuracy))
    return points


def both(means: tuple[float, ...] = FLAT, rival: float = 1.0, **options) -> list[Point]:
    """PISTOLE and a vanilla path that lies ``rival`` higher, for both losses."""
    above = tuple(mean + rival for mean in means)
    return [
        point
        for loss in ("natural", "robust")
        for method, values in (("vanilla", above), ("pistole", means))
        for point in curve(method, values, loss=loss, **options)
    ]


def test_all_three_claims():
    found = summarise(both(), ABOUT)
    assert found["verdict"] == "holds"
    assert found["sub_verdicts"] == {
        f"{claim} {loss}": "holds"
        for claim in ("below_vanilla", "minimum", "ranks_with_sum")
        for loss in ("natural", "robust")
    }
    same = found["below_vanilla"]
    assert [(row["loss"], row["measure"]) for row in same] == [
        ("natural", "trace"), ("natural", "sharpness"), ("robust", "trace"), ("robust", "sharpness")
    ]  # fmt: skip
    assert same[0]["differences"] == pytest.approx([-1.0] * 4)
    assert same[1]["differences"] == pytest.approx([-0.5] * 4)
    assert (same[0]["below"], same[0]["above"], same[0]["compared"]) == (4, 0, 4)
    assert {row["lambda"] for row in found["minimum"]} == {0.2}
    assert found["largest_residual"] == pytest.approx(0.1 / 2)  # of the smallest spectrum
    assert found["negative_traces"] == 0
    assert (
        "everywhere, flattest near lambda 0.2, with flatter models scoring higher, holds"
        in (found["statement"])
    )


def replaced(points: list[Point], loss: str, means: tuple[float, ...], method="pistole", **more):
    others = [p for p in points if (p.method, p.loss) != (method, loss)]
    return others + curve(method, means, loss=loss, **more)


@pytest.mark.parametrize(
    ("points", "failing"),
    [
        (replaced(both(), "natural", (2.0, 1.0, 3.0, 7.0)), "below_vanilla natural"),
        (replaced(both(rival=9.0), "robust", (2.0, 1.0, 3.0, 0.5)), "minimum robust"),
        (
            replaced(both(rival=9.0), "robust", (2.0, 1.0, 0.1, 0.05)),
            "minimum robust",
        ),
    ],
)
def test_one_failing_claim_fails_the_check(points, failing):
    found = summarise(points, ABOUT)
    assert found["verdict"] == "fails"
    assert found["sub_verdicts"][failing] == "fails"
    assert found["sub_verdicts"]["below_vanilla robust"] == "holds"


def test_a_higher_curvature_that_goes_with_a_higher_sum_fails():
    turned = {0.0: 0.8, 0.2: 0.5, 0.5: 0.9, 1.0: 1.0}
    points = [
        Point(p.method, p.lam, p.loss, p.distance, 1.0, p.trace, p.sharpness, p.spectrum,
              (turned[p.lam], 0.0))
        for p in both()
    ]  # fmt: skip
    found = summarise(points, ABOUT)
    assert found["verdict"] == "fails"
    assert found["sub_verdicts"]["ranks_with_sum natural"] == "fails"
    rank = found["ranks_with_sum"][0]
    assert rank["n"] == 8
    assert rank["spearman"] > 0.8
    assert rank["spearman_ci95"][0] <= rank["spearman"] <= rank["spearman_ci95"][1]


def test_noise_leaves_it_undecided():
    found = summarise(both(size=30.0), ABOUT)
    assert found["verdict"] == "undecided"
    assert found["sub_verdicts"]["below_vanilla natural"] == "undecided"
    assert (
        "flattest near lambda 0.2, with flatter models scoring higher, is undecided"
        in (found["statement"])
    )


def test_without_vanilla_or_held_out_sums_nothing_is_claimed():
    alone = [p for p in both() if p.method == "pistole"]
    found = summarise(alone, ABOUT)
    assert (found["verdict"], found["below_vanilla"]) == ("undecided", [])
    blind = summarise(both(held=False), ABOUT)
    assert (blind["verdict"], blind["ranks_with_sum"]) == ("undecided", [])
    assert blind["sub_verdicts"]["minimum natural"] == "holds"


def test_a_control_without_held_out_sums_is_left_out_of_the_correlation_alone():
    control = [
        p for loss in ("natural", "robust")
        for p in curve("permuted_mask_1", (9.0, 8.0, 7.0, 6.0), loss=loss, held=False)
    ]  # fmt: skip
    found = summarise([*both(), *control], ABOUT)
    assert found["ranks_with_sum"] == summarise(both(), ABOUT)["ranks_with_sum"]
    assert {row["other"] for row in found["same_distance"]} == {"vanilla", "permuted_mask_1"}


def test_paths_are_compared_at_equal_distance():
    # PISTOLE is half as far from the base: at distance 2 and 1 vanilla has lambda 0.5 and 1.
    points = [
        *curve("vanilla", (1.0, 2.0, 3.0, 4.0), loss="natural"),
        *curve("pistole", (3.5, 3.4, 3.3, 3.2), loss="natural", distances=(2.0, 1.5, 1.0, 0.5)),
        *curve("vanilla", FLAT, loss="robust"),
        *curve("pistole", FLAT, loss="robust", distances=(9.0, 8.0, 7.0, 6.0)),
    ]
    natural, robust = summarise(points, ABOUT)["same_distance"]
    assert natural["lambdas"] == [0.0, 0.2, 0.5]  # at 0.5 vanilla never is
    # Vanilla at distance 2, 1.5 and 1 has 3, 3.5 and 4.
    assert natural["differences"] == pytest.approx([0.5, -0.1, -0.7], abs=1e-6)
    assert natural["verdict"] == "fails"
    assert robust == {"loss": "robust", "other": "vanilla", "verdict": None, "compared": 0}


def test_negative_traces_of_the_robust_loss_are_counted():
    points = replaced(both(), "robust", (-2.0, -3.0, -1.0, 1.0))
    assert summarise(points, ABOUT)["negative_traces"] == pytest.approx(3 / 8)
