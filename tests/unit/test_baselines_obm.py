"""Optimal Brain Merging: saliencies, trimming, and the sign that saliency elects."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pistole.baselines.obm import Obm, agreeing, curvatures
from pistole.errors import UserError
from tests.unit.method_models import random_params

SHAPES = {"linear": (4, 3), "proj": (3, 4), "conv": (4, 3, 1, 1), "table": (5, 3), "bias": (4,)}
AXES = {"linear": 1, "proj": 0, "conv": 1, "table": -1, "bias": -1}
BASE, NAT, ROB = (random_params(seed, **SHAPES) for seed in range(3))
SOURCES = ("natural", "robust")
STATISTICS = {f"axis/{name}": torch.tensor(axis) for name, axis in AXES.items()}
for number, source in enumerate(SOURCES, 10):
    for layer, x in random_params(
        number, torch.float64, linear=(20, 3), proj=(20, 3), conv=(20, 3)
    ).items():
        STATISTICS[f"{source} obd/{layer}"], STATISTICS[f"{source} obs/{layer}"] = curvatures(
            x.T @ x / 20
        )


def literal(name: str, weights, rule: Obm) -> Tensor:
    """The formula, entry by entry in fp64."""
    own = [w * tau[name].double() for w, tau in zip(weights, (NAT, ROB), strict=True)]
    if AXES[name] == -1:
        return BASE[name] + rule.scaling * (own[0] + own[1])
    rows = [(d.T if AXES[name] == 0 else d.flatten(1)).tolist() for d in own]
    saliencies, kept = [], []
    for source, delta in zip(SOURCES, rows, strict=True):
        h = STATISTICS[f"{source} {rule.saliency}/{name}"].tolist()
        s = [[v * v * h[j] / 2 for j, v in enumerate(row)] for row in delta]
        mean = sum(map(sum, s)) / 12
        if rule.normalize and mean:
            s = [[value / mean for value in row] for row in s]
        best = sorted(((value, i, j) for i, row in enumerate(s) for j, value in enumerate(row)))
        saliencies.append(s)
        kept.append({(i, j) for _, i, j in best[-int(rule.share * 12) :]})
    moved = torch.zeros(4, 3, dtype=torch.float64)
    for i in range(4):
        for j in range(3):
            present = [t for t in range(2) if (i, j) in kept[t] and rows[t][i][j]]
            vote = sum(saliencies[t][i][j] * math.copysign(1, rows[t][i][j]) for t in present)
            moved[i, j] = sum(rows[t][i][j] for t in present if rows[t][i][j] * vote > 0)
    moved = moved.T if AXES[name] == 0 else moved
    return BASE[name] + rule.scaling * moved.reshape(BASE[name].shape)


@pytest.mark.parametrize("weights", [(1, 1), (0.2, 0.8), (0, 1)])
@pytest.mark.parametrize(
    "options",
    [{}, {"saliency": "obs", "share": 0.5}, {"normalize": False, "share": 0.7, "scaling": 0.5}],
)
def test_the_rule_is_its_formula(weights, options):
    rule = Obm(statistics=STATISTICS, **options)
    for name, value in rule(BASE, (NAT, ROB), weights).items():
        assert value.dtype == torch.float32
        expected = literal(name, weights, rule).float()
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)


def test_the_saliency_is_the_loss_of_the_layer_without_the_entry():
    """OBD is exact for a quadratic: E (delta_ij x_j)^2 is s_ij of H = 2 E x x^T."""
    x, delta = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double(), 0.7
    diagonal, _ = curvatures(x.T @ x / 50)
    for j in range(3):
        torch.testing.assert_close(delta**2 * diagonal[j] / 2, (delta * x[:, j]).square().mean())


def test_the_inverse_is_damped_by_a_hundredth_of_the_mean_diagonal():
    gram = torch.tensor([[2.0, 1.0], [1.0, 4.0]], dtype=torch.float64)
    _, obs = curvatures(gram)
    damped = 2 * gram + 0.01 * 6 * torch.eye(2)
    torch.testing.assert_close(obs, 1 / torch.linalg.inv(damped).diagonal())
    singular = torch.ones(2, 2, dtype=torch.float64)
    assert curvatures(singular)[1].isfinite().all()
    dead = curvatures(torch.zeros(2, 2, dtype=torch.float64))
    assert [part.tolist() for part in dead] == [[0, 0], [0, 0]]


def test_inputs_that_are_all_zero_make_nothing_salient():
    obd, obs = curvatures(torch.zeros(3, 3, dtype=torch.float64))
    dead = STATISTICS | {"natural obd/linear": obd, "natural obs/linear": obs}
    for saliency in ("obd", "obs"):
        found = Obm(statistics=dead, share=1.0, saliency=saliency)(BASE, (NAT, ROB), (1, 1))
        # Natural entries have no vote; they stay where they agree with the robust ones.
        agreed = torch.where(NAT["linear"].sign() == ROB["linear"].sign(), NAT["linear"], 0)
        expected = BASE["linear"] + ROB["linear"] + agreed
        torch.testing.assert_close(found["linear"], expected)


def test_the_more_salient_sign_wins_and_a_tie_drops_both():
    deltas = [torch.tensor([1.0, -3.0, 2.0, 1.0]), torch.tensor([-2.0, 1.0, 5.0, -1.0])]
    saliencies = [torch.tensor([4.0, 1.0, 1.0, 1.0]), torch.tensor([3.0, 2.0, 1.0, 1.0])]
    found = agreeing(deltas, saliencies, 1.0)
    assert [part.tolist() for part in found] == [[1, 0, 2, 0], [0, 1, 5, 0]]


@given(st.floats(0.05, 1), st.integers(0, 99), st.floats(0.1, 10))
def test_one_vector_keeps_its_share_and_weights_do_not_change_the_choice(share, seed, weight):
    own = random_params(seed, **SHAPES)
    rule = Obm(statistics=STATISTICS, share=share)
    zero = {name: torch.zeros_like(value) for name, value in BASE.items()}
    moved = rule(zero, (own,), (weight,))
    for name, axis in AXES.items():
        count = own[name].numel()
        assert int((moved[name] != 0).sum()) == (count if axis < 0 else max(1, int(share * count)))
    one, other = (rule(zero, (own, ROB), pair) for pair in ((1, 1), (weight, weight)))
    for name in BASE:
        torch.testing.assert_close(weight * one[name], other[name])


@given(st.integers(0, 99))
def test_identical_models_and_all_entries_give_the_sum(seed):
    own = random_params(seed, **SHAPES)
    found = Obm(statistics=STATISTICS, share=1.0)(BASE, (own, own), (0.3, 0.7))
    for name, value in found.items():
        torch.testing.assert_close(value, BASE[name] + own[name])


def test_zero_weights_leave_the_base():
    for name, value in Obm(statistics=STATISTICS)(BASE, (NAT, ROB), (0, 0)).items():
        assert torch.equal(value, BASE[name])


def test_what_cannot_be_merged_is_refused():
    for bad in (-0.1, 1.1, math.nan):
        with pytest.raises(UserError, match="obm share is"):
            Obm(share=bad)
    with pytest.raises(UserError, match="obm saliency is 'obc': choose one of obd, obs"):
        Obm(saliency="obc")
    for key in ("axis/table", "robust obd/proj", "natural obs/conv"):
        saliency = "obs" if "obs" in key else "obd"
        rest = {k: value for k, value in STATISTICS.items() if k != key}
        with pytest.raises(UserError, match=f"lack '{key}': run 'pistole prepare obm'"):
            Obm(statistics=rest, saliency=saliency)(BASE, (NAT, ROB), (1, 1))
