"""The two theory checks: what their verdicts say of synthetic rows, and one run of each."""

import csv
import math
from pathlib import Path

import pytest
import torch

from pistole.files import load_tensors, read_json, save_tensors
from pistole.params import Params, load_params
from pistole.stages import theory_interference, theory_pci_trace
from tests.e2e.micro import FINETUNED, PREPARED, SCORED, inside, run_micro, status, write_micro

KAPPAS = [0.0, 1.0, 2.0, 4.0]
ETAS = [0.001, 0.005, 0.02]


@pytest.fixture
def params(tmp_path: Path) -> Params:
    changes = {"theory__interference__kappas": KAPPAS, "theory__pci_trace__etas": ETAS}
    return load_params(write_micro(tmp_path / "params.yaml", **changes))


def curve(rhos: list[float | None], gradient: str = "robust", point: str = "base", error=0.0):
    return [
        {
            "gradient": gradient,
            "point": point,
            "kappa": kappa,
            "envelope_ratio": None if rho is None else rho * (1 + error),
            "rho_w": rho,
            "interference_ratio": 0.5,
            "selectivity": 1.5 + kappa,
            "selectivity_permuted": 1.0,
        }
        for kappa, rho in zip(KAPPAS, rhos, strict=True)
    ]


GEOMETRIC = [1.0, 0.5, 0.25, 0.0625]  # a straight line in log: the least convex curve


def test_interference_holds_where_the_identity_and_both_shapes_do(params):
    rows = curve(GEOMETRIC, "natural") + curve([1.0, 0.4, 0.3, 0.29])
    found = theory_interference.summarise(rows, params)
    assert found["verdict"] == "holds"
    assert found["identity_error"] == 0
    assert (found["falls_in_kappa"], found["log_convex_in_kappa"]) == (True, True)
    # The rows at the kappa of the run, by gradient and point.
    assert found["kappa"] == params.stability.kappa == 2
    assert found["rho_w"] == {"natural at base": 0.25, "robust at base": 0.3}
    assert found["selectivity"] == {"natural at base": 3.5, "robust at base": 3.5}


@pytest.mark.parametrize(
    ("rhos", "falls", "convex"),
    [
        ([1.0, 0.5, 0.5, 0.5], True, True),
        ([1.0, 0.5, 0.25, 0.26], False, True),  # convex, but it rises at the end
        ([1.0, 0.9, 0.4, 0.1], True, False),  # slopes of log: -0.1, -0.8, -0.7
        ([1.0, 0.5, 0.25, 0.2501], False, True),
        ([1.0, 0.5, 0.25, 0.0625 * 0.99], True, False),  # just below the straight line
        ([1.0, 0.5, 0.25, 0.0625 * 1.01], True, True),
        ([1.0, 0.5, 0.25 + 1e-12, 0.25], True, True),  # round-off is no violation
        ([1.0, 0.0, 0.0, 0.0], True, True),  # log 0 has no slope
    ],
)
def test_falling_and_log_convex(params, rhos, falls, convex):
    # The bad curve decides, whichever it is.
    for rows in (
        curve(rhos) + curve(GEOMETRIC, "natural"),
        curve(GEOMETRIC, "natural") + curve(rhos),
    ):
        found = theory_interference.summarise(rows, params)
        assert (found["falls_in_kappa"], found["log_convex_in_kappa"]) == (falls, convex)
        assert found["verdict"] == ("holds" if falls and convex else "fails")


@pytest.mark.parametrize(("error", "verdict"), [(9e-7, "holds"), (-9e-7, "holds"), (2e-6, "fails")])
def test_the_identity_may_err_by_round_off_alone(params, error, verdict):
    rows = curve(GEOMETRIC, "natural") + curve(GEOMETRIC, error=error)
    found = theory_interference.summarise(rows, params)
    assert found["verdict"] == verdict
    assert found["identity_error"] == pytest.approx(abs(error), rel=1e-6)
    assert (found["falls_in_kappa"], found["log_convex_in_kappa"]) == (True, True)


def test_curves_without_interference_prove_nothing(params):
    nothing = curve([None] * 4)
    assert theory_interference.summarise(nothing, params)["verdict"] == "fails"
    found = theory_interference.summarise(nothing + curve(GEOMETRIC, "natural"), params)
    assert found["verdict"] == "holds"
    assert found["rho_w"].keys() == {"natural at base"}


def points(slope: float, noise: float, etas: list[float] = ETAS, n: int = 40):
    """Rows where PCI is ``slope`` times the trace's prediction, and noise of its spread."""
    source = torch.Generator().manual_seed(0)
    rows = []
    for eta in etas:
        for model, inputs in theory_pci_trace.GROUPS:
            x = torch.randn(n, generator=source)
            y = slope * x + noise * torch.randn(n, generator=source)
            rows += [
                {"model": model, "inputs": inputs, "eta": eta, "id": str(i)}
                | {"trace_over_2p": a, "pci": b}
                for i, (a, b) in enumerate(zip(x.tolist(), y.tolist(), strict=True))
            ]
    return rows


@pytest.mark.parametrize(
    ("slope", "noise", "verdict"),
    [
        (1.0, 0.05, "holds"),
        (1.2, 0.05, "holds"),
        (2.0, 0.05, "undecided"),  # a perfect rank correlation of another slope
        (0.5, 0.01, "undecided"),
        (1.0, 3.0, "undecided"),  # a slope of 1 in too much noise
        (0.0, 1.0, "fails"),
        (-1.0, 0.05, "fails"),
    ],
)
def test_pci_trace_verdicts(params, slope, noise, verdict):
    found = theory_pci_trace.summarise(points(slope, noise), params)
    assert found["verdict"] == verdict
    low, high = found["slope_ci95"]
    assert low <= found["slope"] <= high
    assert found["slope"] == pytest.approx(slope, abs=0.02 + noise / 4)
    assert found["n"] == 160


def test_pci_trace_tells_how_many_images_it_measured_not_how_many_were_asked_for(params):
    assert params.theory.pci_trace.samples == 8
    found = theory_pci_trace.summarise(points(1.0, 0.05), params)
    assert found["measurement"].startswith("40 images that the scores never saw, ")


def test_pci_trace_is_judged_at_the_radius_of_the_method_and_shown_at_all(params):
    # The nearest on a log scale, not the one that fits best: the others hold perfectly.
    rows = points(1.0, 0.01, [0.001, 0.02]) + points(0.0, 1.0, [0.005])
    found = theory_pci_trace.summarise(rows, params)
    assert (found["eta"], found["verdict"]) == (0.005, "fails")
    assert [part["eta"] for part in found["by_eta"]] == ETAS
    assert [part["spearman"] > 0.9 for part in found["by_eta"]] == [True, False, True]
    shown = [(part["model"], part["inputs"]) for part in found["by_group"]]
    assert shown == theory_pci_trace.GROUPS
    assert {part["n"] for part in found["by_group"]} == {40}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro project up to the merged model, and both checks."""
    merge = ["merge", "pistole", "--lambda", "0.5"]
    checks = [["theory", name] for name in ("interference", "pci_trace")]
    commands = [*PREPARED, *FINETUNED, *SCORED, merge, *checks]
    return run_micro(tmp_path_factory.mktemp("theory"), commands)


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_interference_on_the_micro_project(project):
    folder = project / "artifacts/theory/interference"
    rows, summary = table(folder), read_json(folder / "summary.json")
    assert list(rows[0]) == [
        "gradient",
        "point",
        "kappa",
        "envelope_ratio",
        "rho_w",
        "rho_max",
        "interference_ratio",
        "retention_l1",
        "selectivity",
        "selectivity_permuted",
        "selective_layers",
    ]
    expected = [
        (gradient, point, kappa)
        for gradient in ("natural", "robust")
        for point in ("source", "base", "merged")
        for kappa in (0.0, 1.0, 2.0)
    ]
    assert [(r["gradient"], r["point"], float(r["kappa"])) for r in rows] == expected
    for row in rows:
        envelope, rho = float(row["envelope_ratio"]), float(row["rho_w"])
        assert abs(envelope - rho) < 1e-6 * rho
        assert rho <= float(row["rho_max"]) <= 1
        if float(row["kappa"]) == 0:  # a mask of ones changes nothing
            assert rho == float(row["interference_ratio"]) == float(row["selectivity"]) == 1
        else:
            assert rho < 1
    assert summary["verdict"] == "holds"
    assert summary["identity_error"] < 1e-6
    assert summary["rho_w"] == {
        f"{r['gradient']} at {r['point']}": float(r["rho_w"]) for r in rows if r["kappa"] == "2.0"
    }


def test_the_interference_check_uses_the_masks_of_the_run(project):
    rows = table(project / "artifacts/theory/interference")
    row = next(
        r for r in rows if (r["point"], r["gradient"], r["kappa"]) == ("base", "robust", "2.0")
    )
    masks = load_tensors(project / "artifacts/masks/pistole.safetensors")[0]
    tau = load_tensors(project / "artifacts/vectors/natural.safetensors")[0]
    kept = sum(
        (masks[f"natural/{name}"] * t).abs().double().sum().item() for name, t in tau.items()
    )
    whole = sum(t.abs().double().sum().item() for t in tau.values())
    assert float(row["retention_l1"]) == pytest.approx(kept / whole, rel=1e-5)


def test_pci_trace_on_the_micro_project(project):
    folder = project / "artifacts/theory/pci_trace"
    rows, summary = table(folder), read_json(folder / "summary.json")
    columns = ["model", "inputs", "eta", "id", "p", "pci", "trace_over_2p", "standard_error"]
    assert list(rows[0]) == columns
    assert len(rows) == 2 * 4 * 8
    by_eta = {}
    for row in rows:
        assert 0 < float(row["p"]) < 1
        assert math.isfinite(float(row["pci"]))
        place = (row["model"], row["inputs"], row["id"])
        by_eta.setdefault(place, {})[float(row["eta"])] = float(row["trace_over_2p"])
    assert len(by_eta) == 4 * 8
    for found in by_eta.values():  # one estimate, scaled with eta^2
        assert found[0.01] == pytest.approx(found[0.003] * (0.01 / 0.003) ** 2, rel=1e-5)
    assert summary["eta"] == 0.003  # the grid's nearest to 0.005 on a log scale
    assert summary["n"] == 32
    assert summary["verdict"] in {"holds", "undecided", "fails"}
    # Adversarial images differ from clean ones, and so do the two models.
    probabilities = {
        tuple(r["p"] for r in rows if (r["model"], r["inputs"]) == g)
        for g in theory_pci_trace.GROUPS
    }
    assert len(probabilities) == 4


def test_a_vector_that_is_zero_has_no_interference_to_shrink(project):
    with inside(project):
        vectors = Path("artifacts/vectors")
        kept = {
            source: load_tensors(vectors / f"{source}.safetensors")
            for source in ("natural", "robust")
        }
        for source, (tau, about) in kept.items():
            zero = {name: torch.zeros_like(value) for name, value in tau.items()}
            save_tensors(vectors / f"{source}.safetensors", zero, about)
        try:
            assert status("theory", "interference", "--out", "zero") == 0
        finally:
            for source, (tau, about) in kept.items():
                save_tensors(vectors / f"{source}.safetensors", tau, about)
        assert {row["rho_w"] for row in table(Path("zero"))} == {""}
        assert read_json("zero/summary.json")["verdict"] == "fails"
