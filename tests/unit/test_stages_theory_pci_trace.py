"""Theory check ``pci_trace``: verdicts on synthetic measurements, and one run on few images."""

import csv
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

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
from pistole.theory.identities import Error
from pistole.theory.pci_summary import Measured, Setting, judge, summarise
from tests.e2e.micro import FINETUNED, PREPARED, SCORED, inside, run_micro

ETAS = (1e-4, 1e-3, 3e-3, 1e-2, 1e-1)
GROUPS = list(itertools.product(MODELS, INPUTS))
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
