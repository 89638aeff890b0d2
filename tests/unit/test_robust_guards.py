"""The ladder of attacks, and what it warns of; every code has its paragraph."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pistole.robust import ensemble
from pistole.robust.guards import Ladder, climb, warnings
from tests.unit.robust_models import PerSample, attacked, names, pictures, trained_net

DOCS = Path(__file__).parents[2] / "docs" / "errors.md"
SOUND = Ladder(
    images=40,
    clean=0.9,
    pgd_2=0.6,
    pgd_10=0.5,
    apgd_ce=0.5,
    robust=0.45,
    large=0.0,
    square_only=0.0,
    start_range=0.01,
    falling=0.0,
)


def ladder(model: nn.Module, n: int = 30, eps: float = 0.06, ids: list | None = None) -> Ladder:
    x, y = pictures(n)
    found = attacked(model, x, y, eps, steps=10).columns
    masks = [torch.tensor(found[name]) for name in ("apgd_ce_correct", "robust_correct")]
    return climb(model, x, y, ids or names(n), *masks, eps=eps, seed=0)


def test_a_sound_model_climbs_down_without_a_warning():
    net = trained_net()
    found = ladder(net)
    assert found.clean > found.pgd_2 > found.pgd_10 >= found.apgd_ce >= found.robust > 0
    assert found.large < 0.05
    assert found.falling == found.square_only == 0
    assert warnings(found) == []
    assert ladder(net) == found
    assert ladder(net, ids=[f"other{i}" for i in range(30)]) != found


class Masked(nn.Module):
    """The same answers, and gradients that point nowhere."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Steps of 1/20: the slope that an attack sees is that of a fine ripple.
        flat = torch.round(x * 20) / 20
        return self.model(flat + 1e-4 * torch.sin(997 * x))


def test_hidden_gradients_are_told_by_the_black_box_and_the_large_ball():
    found = ladder(Masked(trained_net()), 40, eps=0.12)
    codes = {line[:4] for line in warnings(found)}
    assert found.square_only > 0.002
    assert {"EV04", "EV05"} <= codes


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"pgd_2": 0.95}, "EV03", "pgd_2 leaves 95.0% right, the weaker clean only 90.0%"),
        ({"pgd_10": 0.7}, "EV03", "pgd_10 leaves 70.0%"),
        ({"apgd_ce": 0.55}, "EV03", "apgd_ce leaves 55.0%"),
        ({"robust": 0.51}, "EV03", "robust leaves 51.0%"),
        ({"square_only": 0.01}, "EV04", "breaks 1.0% on top"),
        ({"large": 0.1}, "EV05", "10.0% are right in a ball of 64/255"),
        ({"start_range": 0.07}, "EV06", "7.0% is between"),
        ({"falling": 0.2}, "EV07", "20.0% of the right images"),
    ],
)
def test_each_sign_is_told_with_its_code(change, code, text):
    assert warnings(SOUND) == []
    (line,) = warnings(replace(SOUND, **change))
    assert line.startswith(f"{code}: ")
    assert text in line
    assert line.endswith(f"(docs/errors.md#{code.lower()})")


def test_a_difference_within_the_slack_is_none():
    small = {"pgd_10": 0.602, "square_only": 0.002, "large": 0.05, "falling": 0.05}
    assert warnings(replace(SOUND, **small, apgd_ce=0.602)) == []


def test_square_on_top_of_the_ensemble_is_told(monkeypatch):
    for name in ("apgd_ce", "apgd_t", "fab_t"):
        monkeypatch.setattr(ensemble, name, lambda model, x, *_, **__: x)
    monkeypatch.setattr("pistole.robust.cascade.fgsm", lambda x, gradient, eps: x)
    x, y = pictures(30)
    found = attacked(PerSample(trained_net()), x, y, 0.12, targets=4, square_queries=150)
    share = found.columns["broken_by"].count("square") / 30
    assert share > 0.01
    (line,) = found.notes
    assert line.startswith(f"EV04: Square, which sees no gradient, breaks {share:.1%} on top")


def test_every_code_has_its_paragraph_and_no_other_has():
    folder = Path(ensemble.__file__).parent
    used = {c for file in folder.glob("*.py") for c in re.findall(r"\bEV\d\d\b", file.read_text())}
    told = re.findall(r"^## (EV\d\d)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(told) == told == sorted(used)
    for part in DOCS.read_text(encoding="utf-8").split("\n## ")[1:]:
        assert "**What it means.**" in part
        assert "**What to do.**" in part
