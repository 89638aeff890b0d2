"""One run of the check ``pci_trace`` on a project of a handful of images."""

import csv
import itertools
import math
from pathlib import Path

import pytest
import torch

from pistole.files import read_json
from pistole.method.ball import layer_variances
from pistole.method.criticality import antithetic_pci
from pistole.params import load_params
from pistole.report.figures import pci_trace as drawing
from pistole.report.inputs import Recorded
from pistole.seeds import derive
from pistole.stages.losses import Objective
from pistole.stages.runtime import classifier, tower
from pistole.stages.slices import read_slice
from pistole.stages.theory.pci_trace import INPUTS, MODELS
from pistole.theory.curvature import weighted_hutchinson_trace
from tests.e2e.micro import FINETUNED, PREPARED, SCORED, inside, run_micro

GROUPS = list(itertools.product(MODELS, INPUTS))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro project up to the merged model, and the check."""
    merge = ["merge", "pistole", "--lambda", "0.5"]
    commands = [*PREPARED, *FINETUNED, *SCORED, merge, ["theory", "pci_trace"]]
    changes = {"theory__pci_trace__etas": [0.003, 0.01], "theory__pci_trace__probes": 3}
    changes["stability__batch_size"] = 5  # 8 images in two passes
    return run_micro(tmp_path_factory.mktemp("pci"), commands, **changes)


@pytest.fixture(scope="module")
def rows(project: Path) -> list[dict[str, str]]:
    with (project / "artifacts/theory/pci_trace/table.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_table(rows):
    assert list(rows[0]) == [
        "model", "inputs", "eta", "id", "p", "pci", "pci_error", "trace_over_2p", "trace_error",
        "pair_pci", "pair_form_over_2p",
    ]  # fmt: skip
    assert len(rows) == 2 * 8 * 8
    by_eta: dict[tuple, dict[float, float]] = {}
    for row in rows:
        assert 0 < float(row["p"]) < 1
        assert math.isfinite(float(row["pci"]))
        assert float(row["pci_error"]) > 0
        assert float(row["trace_error"]) > 0
        place = (row["model"], row["inputs"], row["id"])
        by_eta.setdefault(place, {})[float(row["eta"])] = float(row["trace_over_2p"])
    assert {place[:2] for place in by_eta} == set(GROUPS)
    for found in by_eta.values():  # one estimate, scaled with eta^2
        assert found[0.01] == pytest.approx(found[0.003] * (0.01 / 0.003) ** 2, rel=1e-5)
    # Models and inputs differ.
    kinds = [[r["p"] for r in rows if (r["model"], r["inputs"]) == group] for group in GROUPS]
    assert len(set(map(tuple, kinds))) == 8


def test_the_summary(project, rows):
    summary = read_json(project / "artifacts/theory/pci_trace/summary.json")
    assert summary["n"] == 64
    assert summary["verdict"] in {"holds", "undecided", "fails"}
    assert summary["measurement"].startswith("8 images that the scores never saw, ")
    assert "at 4 models; 2 antithetic pairs against 3 Hutchinson probes" in summary["measurement"]
    assert summary["identities"]["chain_rule"] == "holds"
    assert summary["identities"]["zero_sum"] == "holds"
    assert 0 < summary["identities"]["chain_rule_error"] < 1e-3
    assert summary["method_eta"] == 0.003  # the grid's nearest to 0.005 in log
    # Along the same directions only the fourth order and rounding are left.
    assert summary["plateau"] is not None
    assert summary["pair_slope"] == pytest.approx(1, abs=0.02)


def test_a_pair_has_the_pci_of_the_form_along_its_own_direction(rows):
    at = [row for row in rows if row["eta"] == "0.01"]
    pci, form = (
        torch.tensor([float(row[key]) for row in at]) for key in ("pair_pci", "pair_form_over_2p")
    )
    assert torch.allclose(pci, form, rtol=0.02, atol=0.01 * form.abs().max().item())


def test_rows_are_pci_and_trace_of_the_model_and_images(project, rows):
    """Again, by hand, for clean images at the merged model."""
    with inside(project):
        params = load_params("params.yaml")
        artifacts, device = Path("artifacts"), torch.device("cpu")
        images = read_slice(artifacts / "data/clutter", "measure", 8)
        objective = Objective(classifier(artifacts / "base", "clutter", device), images, 8)
        theta = tower(artifacts / "merged/pistole", artifacts / "base", device)
    place = {"eta": 0.01, "dist": "sphere", "ball": "layer", "perturb_1d": False}
    seed = derive(params.seed, "theory", "pci_trace", "merged", "clean")
    everything = torch.arange(8)
    trace = weighted_hutchinson_trace(
        lambda t: objective.log_prob(t, objective.clean, everything).exp(),
        theta,
        layer_variances(theta, **place),
        probes=3,
        seed=seed,
    ).trace / (2 * objective.log_probs(theta, objective.clean).exp())
    pci = [
        antithetic_pci(
            lambda t: objective.log_probs(t, objective.clean), theta, pairs=1,
            seed=derive(seed, "pair", k), **place,
        ).pci
        for k in range(2)
    ]  # fmt: skip
    ours = {
        r["id"]: r
        for r in rows
        if (r["model"], r["inputs"], r["eta"]) == ("merged", "clean", "0.01")
    }
    found = [[float(ours[i][key]) for i in images.ids] for key in ("pci", "trace_over_2p")]
    # Batches of another size round log p elsewhere: 1e-7 of 2 values each, over eta^2 / 2.
    assert found[0] == pytest.approx(torch.stack(pci).mean(0).tolist(), rel=1e-3, abs=3e-6)
    assert found[1] == pytest.approx(trace.tolist(), rel=1e-3, abs=1e-7)


def test_the_figure(project, rows):
    summary = read_json(project / "artifacts/theory/pci_trace/summary.json")
    floats = [
        {k: v if k in {"model", "inputs", "id"} else float(v) for k, v in row.items()}
        for row in rows
    ]
    record = Recorded(summary, floats)
    assert drawing.draw(record) == drawing.draw(record)
    told = drawing.numbers(record)
    assert 15 <= len(told) <= 40
    assert len({tuple(row) for row in told}) == 1
