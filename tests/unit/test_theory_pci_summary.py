"""What synthetic measurements say of Theorem 2: plateau, fits, verdicts (docs/method.md E.2)."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pistole.theory.identities import Error
from pistole.theory.pci_summary import Measured, Setting, judge, summarise

ETAS = (1e-4, 1e-3, 3e-3, 1e-2, 1e-1)
MODELS = ("base", "natural", "robust", "merged")
GROUPS = list(itertools.product(MODELS, ("clean", "adversarial")))
RIGHT = Error(1e-9, 1e-7)


def setting(**changes) -> Setting:
    values = {
        "etas": ETAS, "method_eta": 5e-3, "resamples": 200, "seed": 0, "few": 3,
        "chain_rule": RIGHT, "zero_sum": RIGHT,
    }  # fmt: skip
    return Setting(**values | changes)


def measured(
    gain: Callable[[float], float], *, noise: float = 0.1, rounding: float = 0.0, n: int = 40
) -> list[Measured]:
    """PCI that is ``gain(eta)`` times what theory predicts, with noise of directions."""
    source = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    groups = []
    for model, inputs in GROUPS:
        x = normal(n)
        along = x + noise * normal(6, n)  # half the form along each pair's direction
        pci = {eta: gain(eta) * along * eta**2 + rounding * normal(6, n) for eta in ETAS}
        forms = 2 * (x + noise * normal(8, n))
        groups.append(Measured(model, inputs, torch.full((n,), 0.5), forms, pci, 2 * along[0]))
    return groups


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [(1.0, "holds"), (1.15, "holds"), (2.0, "fails"), (0.5, "fails"), (0.0, "fails"),
     (-1.0, "fails")],
)  # fmt: skip
def test_the_verdict_is_that_of_the_slope(gain, verdict):
    found = summarise(measured(lambda _: gain), setting())
    assert found["verdict"] == verdict
    assert found["method_verdict"] == verdict
    assert found["slope"] == pytest.approx(gain, abs=0.02)
    assert found["pair_slope"] == pytest.approx(gain)
    assert found["slope_ci95"][0] <= found["slope"] <= found["slope_ci95"][1]
    assert found["n"] == 320
    assert f"half the weighted Hessian trace over p {verdict}" in found["statement"]


def test_noise_of_the_directions_leaves_it_undecided():
    found = summarise(measured(lambda _: 1.0, noise=2.0, n=3), setting())
    assert found["verdict"] == "undecided"
    assert found["pair_slope"] == pytest.approx(1)


def test_the_plateau_decides_and_the_method_s_radius_is_told_beside():
    """Rounding drowns 1e-4 and 1e-3, and the fourth order doubles PCI at 0.1."""
    groups = measured(lambda eta: 1 + 100 * eta**2, rounding=1e-6)
    found = summarise(groups, setting(method_eta=1.2e-4))
    assert found["plateau"]["from"] == 3e-3
    assert found["plateau"]["to"] == 1e-2
    assert 0 < found["plateau"]["disagreement"] <= 0.05
    assert (found["eta"], found["verdict"]) == (3e-3, "holds")
    assert (found["method_eta"], found["method_verdict"]) == (1e-4, "fails")
    by_eta = {row["eta"]: row for row in found["by_eta"]}
    assert list(by_eta) == list(ETAS)
    assert by_eta[1e-1]["pair_slope"] == pytest.approx(2, rel=0.01)
    assert by_eta[3e-3]["slope"] == found["slope"]
    assert "plateau from eta 0.003 to 0.01: at 0.003" in found["statement"]
    assert "eta (0.0001 in the grid) the verdict is 'fails'" in found["statement"]


def test_without_a_plateau_nothing_is_decided():
    groups = measured(lambda eta: 1 + 1e4 * eta)
    found = summarise(groups, setting())
    assert (found["plateau"], found["verdict"]) == (None, "undecided")
    assert found["eta"] == found["method_eta"] == 3e-3
    assert found["method_verdict"] == "fails"
    assert "is undecided: no two neighbouring radii agree" in found["statement"]


def test_the_fits_are_split_by_inputs_model_group_and_sign():
    groups = measured(lambda _: 1.0)
    bad = groups[GROUPS.index(("robust", "adversarial"))]
    for eta in ETAS:
        bad.pci[eta].mul_(3)
    found = summarise(groups, setting())
    assert [row["inputs"] for row in found["by_inputs"]] == ["clean", "adversarial"]
    assert [row["n"] for row in found["by_inputs"]] == [160, 160]
    assert [row["model"] for row in found["by_model"]] == list(MODELS)
    verdicts = {(row["model"], row["inputs"]): row["verdict"] for row in found["by_group"]}
    assert list(verdicts) == GROUPS
    assert {key for key, verdict in verdicts.items() if verdict != "holds"} == {
        ("robust", "adversarial")
    }
    signs = {row["trace"]: row["n"] for row in found["by_sign"]}
    positive = sum(int((g.forms.mean(0) > 0).sum()) for g in groups)
    assert signs == {"positive": positive, "negative": 320 - positive}
    assert min(signs.values()) > 100


def test_the_identities_are_judged_by_what_fp32_gives():
    found = summarise(measured(lambda _: 1.0), setting())["identities"]
    assert (found["chain_rule"], found["zero_sum"]) == ("holds", "holds")
    wrong = setting(chain_rule=Error(1e-9, 2e-3), zero_sum=Error(2e-6, 1e-9))
    found = summarise(measured(lambda _: 1.0), wrong)["identities"]
    assert (found["chain_rule"], found["zero_sum"]) == ("fails", "fails")
    assert (found["chain_rule_error"], found["zero_sum_error"]) == (2e-3, 2e-6)
    assert found["images_per_group"] == 3


@pytest.mark.parametrize(
    ("ranks", "slope", "pair", "verdict"),
    [
        ((0.6, 0.9), (0.7, 1.3), (0.9, 1.1), "holds"),
        ((0.4, 0.9), (0.9, 1.1), (0.9, 1.1), "undecided"),
        ((0.6, 0.9), None, (0.9, 1.1), "undecided"),
        ((0.6, 0.9), (0.9, 1.1), (0.7, 1.1), "undecided"),
        ((0.1, 0.4), (0.9, 1.1), (0.9, 1.1), "fails"),
        ((0.6, 0.9), (1.3, 1.9), (0.9, 1.1), "fails"),
        ((0.6, 0.9), (0.9, 1.1), (0.1, 0.7), "fails"),
    ],
)
def test_what_the_intervals_decide(ranks, slope, pair, verdict):
    assert judge(ranks, slope, pair) == verdict
