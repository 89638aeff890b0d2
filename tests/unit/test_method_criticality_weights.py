"""The weights of the samples, made of their PCI (docs/method.md A.5.2)."""

import pytest
import torch

from pistole.errors import UserError
from pistole.method.criticality import PciEstimate, pci_weights

KINDS = ("abs", "neg", "pos", "softplus", "rms", "one")


def estimate(values: list[float]) -> PciEstimate:
    pci = torch.tensor(values)
    return PciEstimate(pci=pci, rms=pci.abs() + 1, first_half=pci, second_half=pci)


def weights(values: list[float], kind: str, clip_pct: float = 100, floor: float = 0) -> list[float]:
    return pci_weights(estimate(values), kind, clip_pct=clip_pct, floor=floor).tolist()


def test_weight_kinds():
    pci = [-3.0, 1.0, 0.0, 2.0]
    assert weights(pci, "abs") == pytest.approx([2, 2 / 3, 0, 4 / 3])
    assert weights(pci, "neg") == pytest.approx([4, 0, 0, 0])
    assert weights(pci, "pos") == pytest.approx([0, 4 / 3, 0, 8 / 3])
    assert weights(pci, "rms") == pytest.approx([1.6, 0.8, 0.4, 1.2])
    assert weights(pci, "one") == [1, 1, 1, 1]
    tempered = torch.tensor(pci) / torch.tensor(pci).std(correction=0)
    soft = torch.log1p(tempered.exp())
    assert weights(pci, "softplus") == pytest.approx((soft / soft.mean()).tolist(), rel=1e-5)


def test_softplus_adapts_to_small_pci():
    assert weights([-3e-6, 1e-6, 2e-6], "softplus") == pytest.approx(
        weights([-3.0, 1.0, 2.0], "softplus"), rel=1e-4
    )


def test_weights_are_clipped_then_normalised_then_floored():
    values = [float(i) for i in range(100)] + [1e6]
    found = torch.tensor(weights(values, "abs", clip_pct=95, floor=0.1))
    assert found.mean().item() == pytest.approx(1)
    assert found[-1] == found[96]
    assert found[0].item() == pytest.approx(0.1)
    expected = torch.tensor(values).clamp(max=95)
    assert torch.allclose(found, 0.1 + 0.9 * expected / expected.mean())


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_a_flat_model_are_ones(kind):
    assert weights([0.0, 0.0, 0.0], kind, clip_pct=95, floor=0.1) == [1, 1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_have_mean_one_and_respect_the_floor(kind):
    values = torch.randn(64, generator=torch.Generator().manual_seed(0)).tolist()
    found = torch.tensor(weights(values, kind, clip_pct=95, floor=0.1))
    assert found.mean().item() == pytest.approx(1, rel=1e-5)
    assert found.min() >= 0.1 - 1e-6


def test_a_floor_of_one_weighs_all_alike():
    assert weights([1.0, 2.0, 5.0], "abs", clip_pct=100, floor=1) == [1, 1, 1]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"kind": "square"}, "pci weight is 'square'"),
        ({"clip_pct": 0}, "clip_pct is 0"),
        ({"clip_pct": 101}, "clip_pct is 101"),
        ({"floor": -0.1}, "floor is -0.1"),
        ({"floor": 1.5}, "floor is 1.5"),
    ],
)
def test_bad_weight_settings_are_refused(bad, words):
    with pytest.raises(UserError, match=words):
        weights([1.0], **({"kind": "abs"} | bad))
