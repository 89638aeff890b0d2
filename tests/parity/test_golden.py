"""Each of our components breaks the very images that the reference AutoAttack broke."""

import torch
from torch import Tensor

from pistole.files import load_tensors
from pistole.robust import components
from pistole.robust.components import apgd_ce, apgd_t, fab_t, square
from tests.parity.make_golden import FILE
from tests.unit.robust_models import TinyNet

TENSORS, MADE = load_tensors(FILE)
X, Y, EPS = TENSORS["x"], TENSORS["y"], MADE["eps"]
NET = TinyNet().eval()
NET.load_state_dict({k[4:]: v for k, v in TENSORS.items() if k.startswith("net/")})


def stream() -> torch.Generator:
    """What the global generator is after the reference has seeded it."""
    return torch.Generator().manual_seed(MADE["seed"])


def right(found: Tensor) -> list[bool]:
    """Which images the net still gets right; all of them are in the ball."""
    assert (found - X).abs().max() <= EPS + 1e-6
    with torch.no_grad():
        return (NET(found).argmax(1) == Y).tolist()


def over_targets(attack) -> Tensor:
    """One target at a time on the survivors, as the reference does."""
    found, alive = X.clone(), torch.ones_like(Y, dtype=torch.bool)
    for target in range(1, MADE["targets"] + 1):
        rows = alive.nonzero()[:, 0]
        found[rows] = attack(X[rows], Y[rows], target)
        alive = NET(found).argmax(1) == Y
    return found


def test_the_file_says_where_it_comes_from():
    assert MADE["made_by"].keys() == {"pyautoattack", "torch"}
    counts = {name: int(v.sum()) for name, v in TENSORS.items() if name.startswith("right/")}
    assert len(set(counts.values())) == 4
    assert all(0.3 < count / len(X) < 0.95 for count in counts.values())


def test_apgd_ce():
    draws = torch.rand(X.shape, generator=stream())
    found = apgd_ce(NET, X, Y, draws, eps=EPS, steps=MADE["steps"])
    assert right(found) == TENSORS["right/apgd_ce"].tolist()


def test_apgd_t():
    source, effort = stream(), {"eps": EPS, "steps": MADE["steps"], "targets": MADE["targets"]}

    def attack(x: Tensor, y: Tensor, target: int) -> Tensor:
        return apgd_t(NET, x, y, torch.rand(x.shape, generator=source), target=target, **effort)

    assert right(over_targets(attack)) == TENSORS["right/apgd_t"].tolist()


def test_fab_t():
    effort = {"eps": EPS, "steps": MADE["steps"], "targets": MADE["targets"]}
    found = over_targets(lambda x, y, target: fab_t(NET, x, y, target=target, **effort))
    assert right(found) == TENSORS["right/fab_t"].tolist()


def test_square(monkeypatch):
    source, draws = stream(), torch.zeros_like(X)
    draws[:, :, :1] = torch.rand(draws[:, :, :1].shape, generator=source)
    monkeypatch.setattr(components, "generator", lambda *_: source)
    found = square(NET, X, Y, draws, eps=EPS, queries=MADE["queries"], seed=0)
    assert right(found) == TENSORS["right/square"].tolist()
