"""The check ``agreement``: what its verdict says of synthetic rows, and one run."""

import math
from pathlib import Path

import pytest
import theory_project
import torch
from theory_project import record, table

from pistole.params import Params, load_params
from pistole.report.figures import agreement as drawing
from pistole.report.inputs import Recorded
from pistole.robust.pgd import Budget
from pistole.seeds import derive
from pistole.stages.losses import Objective
from pistole.stages.runtime import classifier, tower
from pistole.stages.slices import read_slice
from pistole.stages.theory import agreement as stage
from tests.e2e.micro import write_micro

project = theory_project.project

RADII = [0.0, 1 / 255, 4 / 255]
COLUMNS = [
    "model",
    "layer",
    "eps",
    "cosine",
    "cosine_low",
    "cosine_high",
    "disattenuated",
    "disattenuated_low",
    "disattenuated_high",
    "self_cosine",
    "cross_cosine",
    "sign_agreement",
    "sign_self",
    "sign_cross",
    "norm",
]


@pytest.fixture
def params(tmp_path: Path) -> Params:
    return load_params(write_micro(tmp_path / "params.yaml"))


def trends(cosine: list[float] | None, disattenuated: list[float] | None) -> list[dict]:
    value = -0.9 if cosine else None
    row = {"cosine": value, "cosine_ci95": cosine, "disattenuated": None, "falling_layers": 1.0}
    row["disattenuated_ci95"] = disattenuated
    ordinary = {"cosine_ci95": [0.1, 0.2], "disattenuated_ci95": None}
    return [{"model": name} | row | ({} if name == "base" else ordinary) for name in stage.MODELS]


def rows(**changes: float | None) -> list[dict]:
    row = {"layer": "all", "eps": 0.0, "self_cosine": 0.4, "disattenuated": 0.3}
    row |= {"cosine": 0.2, "cosine_low": 0.1, "cosine_high": 0.25}
    row |= {"disattenuated_low": None, "disattenuated_high": None}
    last = row | {"eps": 8 / 255} | changes
    return [r | {"model": name} for name in stage.MODELS for r in (row | {"cosine": 1.0}, last)]


@pytest.mark.parametrize(
    ("cosine", "disattenuated", "verdict"),
    [
        ([-1.0, -0.5], [-1.0, -0.2], "holds"),
        ([-1.0, -0.5], None, "holds"),  # noise hides the corrected value
        ([-1.0, -0.5], [-1.0, 0.3], "holds"),
        ([-1.0, -0.5], [0.0, 0.9], "undecided"),  # noise alone would make the raw one fall
        ([-0.5, 0.2], [-1.0, -0.2], "undecided"),
        ([0.0, 0.7], None, "fails"),
        ([0.3, 0.7], [-1.0, -0.2], "fails"),
        (None, None, "undecided"),
    ],
)
def test_verdict(params, cosine, disattenuated, verdict):
    found = stage.summarise(rows(), trends(cosine, disattenuated), params, images=16)
    assert found["verdict"] == verdict
    assert found["measurement"].startswith("16 images")
    assert found["statement"].count(".") >= 1
    assert found["rank_correlation_cosine"]["base"] == (-0.9 if cosine else None)


def test_statement_tells_the_corrected_value_only_as_far_as_it_is_known(params):
    for changes, told in (
        ({}, "it is 0.30 (too noisy for an interval)."),
        ({"disattenuated": None}, "it has no value."),
        ({"disattenuated_low": 0.1, "disattenuated_high": 0.5}, "it is 0.30 (0.10 to 0.50)."),
    ):
        found = stage.summarise(rows(**changes), trends([-1.0, -0.5], None), params, images=16)
        assert found["statement"].endswith(told)
        assert "at 8/255 the cosine is 0.20 (0.10 to 0.25)" in found["statement"]


# One run


def test_table_of_the_micro_project(project):
    lines = table(project, "agreement")
    assert list(lines[0]) == COLUMNS
    layers = {line["layer"] for line in lines}
    assert len(lines) == 3 * 3 * len(layers)
    assert len(layers) > 50
    for row in record(project, "agreement").rows:
        if row["eps"] == 0:  # the same gradient twice
            assert row["cosine"] == pytest.approx(1, abs=1e-9)
            assert row["sign_agreement"] == 1
            assert row["self_cosine"] == row["cross_cosine"]
        elif row["cosine"] != "":
            assert -1 <= row["cosine"] <= 1
            assert row["cosine"] < 1
        assert (row["cosine_low"] == "") == (row["layer"] != "all")
        known = row["disattenuated"] != ""
        if known and row["cross_cosine"] != "":
            assert math.copysign(1, row["disattenuated"]) == math.copysign(1, row["cross_cosine"])


def test_summary_of_the_micro_project(project):
    found = record(project, "agreement").summary
    assert found["measurement"].startswith("16 images")  # 17 listed: one does not fill a block
    assert found["verdict"] in {"holds", "fails", "undecided"}
    assert set(found["rank_correlation_cosine"]) == {"base", "natural", "robust"}
    assert found["at_largest_radius"]["eps"] == pytest.approx(RADII[-1])


@pytest.mark.parametrize(("name", "folder"), [("base", "base"), ("robust", "checkpoints/robust")])
def test_cosines_are_those_of_the_gradients(project, name, folder):
    """Computed again without blocks, Gram matrices and stacks."""
    params, base = load_params(project / "params.yaml"), project / "artifacts/base"
    images = read_slice(project / "artifacts/data/clutter", "measure")
    objective = Objective(classifier(base, "clutter", torch.device("cpu")), images, 8)
    theta = tower(project / "artifacts" / folder, base, torch.device("cpu"))
    eps, used = RADII[-1], torch.arange(16)
    budget = Budget(eps, eps / 4, 10, params.attack.calibration.init)
    attacked = objective.attacked(theta, budget, derive(0, "theory", "agreement", name))
    clean = objective.mean_gradient(theta, objective.clean, chosen=used)
    robust = objective.mean_gradient(theta, attacked, chosen=used)
    halves = [objective.mean_gradient(theta, attacked, chosen=used[i::2]) for i in (0, 1)]
    own = {
        row["layer"]: row
        for row in record(project, "agreement").rows
        if row["model"] == name and row["eps"] == pytest.approx(eps)
    }

    def flat(g: dict[str, torch.Tensor], layer: str) -> torch.Tensor:
        parts = [g[n] for n in sorted(g)] if layer == "all" else [g[layer]]
        return torch.cat([part.flatten() for part in parts]).double()

    for layer in ("all", "conv1.weight", "transformer.resblocks.2.attn.in_proj_weight"):
        a, b = flat(clean, layer), flat(robust, layer)
        expected = (a @ b / (a.norm() * b.norm())).item()
        assert own[layer]["cosine"] == pytest.approx(expected, abs=1e-4)
        assert own[layer]["norm"] == pytest.approx(b.norm().item(), rel=1e-4)
        same = (a.sign() * b.sign() > 0).double().mean().item()
        assert own[layer]["sign_agreement"] == pytest.approx(same, abs=2e-3)
        first, second = (flat(half, layer) for half in halves)
        same = (first.sign() * second.sign() > 0).double().mean().item()
        assert own[layer]["sign_self"] == pytest.approx(same, abs=2e-3)


def test_figure_of_the_micro_project(project):
    found = record(project, "agreement")
    drawn = drawing.draw(found)
    assert drawn == drawing.draw(found)
    for text in ("at the base model", "at the robust model", "noise floor", "cosine of two grad"):
        assert text in drawn
    shown = drawing.numbers(found)
    assert len(shown) == 9
    assert [row["model"] for row in shown[::3]] == ["base", "natural", "robust"]
    empty = drawing.draw(Recorded(found.summary, []))
    assert empty.startswith("<?xml")
