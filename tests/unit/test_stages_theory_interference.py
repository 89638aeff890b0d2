"""One run of the check ``interference`` on a project of a handful of images."""

import csv
import statistics
from pathlib import Path

import pytest
import torch

from pistole.files import load_tensors, read_json, save_tensors, write_json
from pistole.params import load_params
from pistole.report.figures import interference as drawing
from pistole.report.inputs import Recorded
from pistole.seeds import derive, generator
from pistole.stages.composing import read_ingredients
from pistole.stages.losses import Objective
from pistole.stages.runtime import attack_budget, classifier, tower
from pistole.stages.slices import read_slice
from pistole.theory.interference import contraction
from pistole.theory.interference_table import COLUMNS
from pistole.theory.selectivity import bootstrap_counts
from tests.e2e.micro import FINETUNED, PREPARED, SCORED, inside, run_micro, status

KAPPAS, GAMMAS, QS, LAMBDAS = [0.0, 2.0, 4.0], [0.5, 1.0], [0.9, 1.0], [0.0, 0.25, 1.0]
CAPS = ["score_clip", "renorm", "mask_cap", "zero_top"]
LAM = 0.25
PLACES = [(g, p) for g in ("natural", "robust") for p in ("source", "base", "merged")]
CHANGES = {
    "theory__interference__kappas": KAPPAS,
    "theory__interference__gammas": GAMMAS,
    "theory__interference__qs": QS,
    "theory__interference__cap_modes": CAPS,
    "theory__interference__lambdas": LAMBDAS,
    "theory__interference__resamples": 3,
    "attack__calibration__init": "zero",  # so that a test can attack again without a seed
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro project up to the masks, a lambda, and the check."""
    folder = run_micro(
        tmp_path_factory.mktemp("interference"), [*PREPARED, *FINETUNED, *SCORED], **CHANGES
    )
    write_json(folder / "artifacts/select/lambda.json", {"pistole": LAM})
    with inside(folder):
        assert status("theory", "interference", "--out", "artifacts/theory/interference") == 0
    return folder


def table(folder: Path) -> list[dict]:
    def value(text: str) -> object:
        try:
            return float(text)
        except ValueError:
            return text

    with (folder / "table.csv").open(newline="") as stream:
        return [{k: value(v) for k, v in row.items()} for row in csv.DictReader(stream)]


@pytest.fixture(scope="module")
def rows(project: Path) -> list[dict]:
    return table(project / "artifacts/theory/interference")


def of(rows: list[dict], grid: str, **wanted: object) -> list[dict]:
    wanted["grid"] = grid
    return [row for row in rows if all(row[k] == v for k, v in wanted.items())]


def test_every_grid_has_its_rows(rows):
    assert tuple(rows[0]) == COLUMNS
    grids = {
        "kappa": [(k, g) for g in GAMMAS for k in KAPPAS],
        "cap": [(m, q) for m in CAPS for q in QS],
        "interval": ["selectivity", "selectivity_permuted", "selectivity_gain", "rho_w"],
    }
    for grid, keys in (
        ("kappa", ("kappa", "gamma")),
        ("cap", ("cap_mode", "q")),
        ("interval", ("quantity",)),
    ):
        for gradient, point in PLACES:
            found = [
                tuple(r[k] for k in keys) for r in of(rows, grid, gradient=gradient, point=point)
            ]
            assert found == [k if isinstance(k, tuple) else (k,) for k in grids[grid]]
    mixed = [(r["point"], r["lambda"]) for r in of(rows, "lambda")]
    assert mixed == [(p, lam) for p in ("source", "base", "merged") for lam in LAMBDAS]
    for gradient, point in PLACES:
        found = [r["quantity"] for r in of(rows, "loss", gradient=gradient, point=point)]
        always = ["masked", "unmasked", "uniform", "masked_minus_uniform"]
        assert found == always + ["self", "merged"] * (point == "source")
        found = of(rows, "trade", gradient=gradient, point=point)
        assert [(r["lambda"], r["quantity"]) for r in found] == [
            (lam, quantity) for lam in LAMBDAS for quantity in ("cross", "self")
        ]


def test_the_identity_holds_in_every_row(rows):
    told = [row for row in rows if row["rho_w"] != ""]
    assert {row["grid"] for row in told} == {"kappa", "cap", "layer", "lambda"}
    for row in told:
        assert row["envelope_ratio"] == pytest.approx(row["rho_w"], rel=1e-6)
        assert row["rho_w"] <= row["rho_max"] * (1 + 1e-9) <= 1 + 1e-9
    for row in of(rows, "kappa", kappa=0.0):  # a mask of ones changes nothing
        for name in ("rho_w", "interference_ratio", "retention_l1", "retention_l2", "selectivity"):
            assert row[name] == pytest.approx(1)
    for row in of(rows, "lambda"):
        assert row["envelope_ratio"] <= row["bound"] * (1 + 1e-9)


def test_settings_that_are_one_give_one_number(rows):
    """The run's own masks appear in three grids."""
    for gradient, point in PLACES:
        place = {"gradient": gradient, "point": point}
        (own,) = of(rows, "layer", layer="all", **place)
        assert (own["kappa"], own["gamma"], own["q"]) == (2, 0.5, 0.999)
        (in_kappa,) = of(rows, "kappa", kappa=2.0, gamma=0.5, **place)
        for name in ("rho_w", "rho_max", "selectivity", "selectivity_permuted", "selective_layers"):
            assert own[name] == in_kappa[name]
        uncapped = {row["rho_w"] for row in of(rows, "cap", q=1.0, **place)}
        assert max(uncapped) == pytest.approx(min(uncapped), rel=1e-6)
        end = {"natural": 0.0, "robust": 1.0}[gradient]  # only the other vector is in the mix
        (mixed,) = of(rows, "lambda", point=point, **{"lambda": end})
        assert mixed["rho_w"] == pytest.approx(own["rho_w"], rel=1e-9)
        # S by the stack of masks and by the sums of the contraction.
        (interval,) = of(rows, "interval", quantity="selectivity", **place)
        assert interval["estimate"] == pytest.approx(own["selectivity"], rel=1e-6)
        assert interval["low"] < interval["estimate"] < interval["high"]
        (left,) = of(rows, "interval", quantity="rho_w", **place)
        assert left["estimate"] == pytest.approx(own["rho_w"], rel=1e-6)


def test_the_check_uses_the_masks_of_the_run(project, rows):
    (row,) = of(rows, "layer", layer="all", gradient="robust", point="base")
    masks = load_tensors(project / "artifacts/masks/pistole.safetensors")[0]
    tau = load_tensors(project / "artifacts/vectors/natural.safetensors")[0]
    for power, column in ((1, "retention_l1"), (2, "retention_l2")):
        norms = [
            sum(v.double().abs().pow(power).sum().item() for v in vector.values()) ** (1 / power)
            for vector in ({name: masks[f"natural/{name}"] * t for name, t in tau.items()}, tau)
        ]
        assert row[column] == pytest.approx(norms[0] / norms[1], rel=1e-5)
    layers = [r["layer"] for r in of(rows, "layer", gradient="robust", point="base")]
    assert sorted(layers) == sorted([*tau, "all"])


@pytest.fixture(scope="module")
def measured(project: Path) -> dict[str, dict]:
    """Losses per image and gradients, by hand: points of the natural and of the robust loss."""
    with inside(project):
        params, artifacts = load_params(Path("params.yaml")), Path("artifacts")
        base, device = artifacts / "base", torch.device("cpu")
        images = read_slice(artifacts / "data/clutter", "measure")
        objective = Objective(classifier(base, "clutter", device), images, 7)
        vectors = [artifacts / f"vectors/{s}.safetensors" for s in ("natural", "robust")]
        ours = read_ingredients(params, "pistole", base, *vectors, artifacts / "masks")
        taus = {"natural": ours.tau_nat, "robust": ours.tau_rob}
        found = {}
        for name, other in (("natural", "robust"), ("robust", "natural")):
            mask, own_mask = (ours.masks[("natural", "robust").index(s)] for s in (other, name))
            source = tower(artifacts / "checkpoints" / name, base, device)
            share = LAM if name == "natural" else 1 - LAM
            points = {
                "source": source,
                "masked": {k: v + mask[k] * taus[other][k] for k, v in source.items()},
                "merged": ours.compose("pistole", LAM),
                "self": {
                    k: v - (1 - share * own_mask[k]) * taus[name][k] for k, v in source.items()
                },
            }
            losses = {}
            for point, theta in points.items():
                pixels = objective.clean
                if name == "robust":
                    pixels = objective.attacked(theta, attack_budget(params, "calibration"), 0)
                losses[point] = -objective.log_probs(theta, pixels).double()
                if point == "source":
                    g = objective.mean_gradient(theta, pixels)
                    seed = derive(params.seed, "theory", "interference")
                    counts = bootstrap_counts(len(images), 3, seed=derive(seed, "resamples"))
                    order = torch.randperm(len(images), generator=generator(seed, "blocks"))
                    weights = torch.zeros_like(counts)
                    weights[:, order] = counts
                    again = [objective.mean_gradient(theta, pixels, w) for w in weights]
                    drawn = [contraction(h, taus[other], mask)["all"].selectivity for h in again]
            found[name] = {
                "losses": losses,
                "selectivities": drawn,
                "cross": sum((g[k] * mask[k] * taus[other][k]).sum().item() for k in g),
                "self": sum(
                    (g[k] * (share * own_mask[k] - 1) * taus[name][k]).sum().item() for k in g
                ),
            }
        return found


@pytest.mark.parametrize("gradient", ["natural", "robust"])
def test_the_true_loss_change_at_the_source(rows, measured, gradient):
    losses = measured[gradient]["losses"]
    for kind in ("masked", "merged", "self"):
        (row,) = of(rows, "loss", gradient=gradient, point="source", quantity=kind)
        change = losses[kind] - losses["source"]
        assert row["estimate"] == pytest.approx(change.mean().item(), rel=1e-3, abs=1e-6)
        error = 1.959964 * change.std().item() / len(change) ** 0.5
        assert row["high"] - row["estimate"] == pytest.approx(error, rel=1e-3, abs=1e-6)
        assert row["second_order_share"] == pytest.approx(1 - row["first_order"] / row["estimate"])


@pytest.mark.parametrize("gradient", ["natural", "robust"])
def test_the_interval_of_s_is_that_of_gradients_weighted_by_the_resamples(rows, measured, gradient):
    place = {"gradient": gradient, "point": "source"}
    (row,) = of(rows, "interval", quantity="selectivity", **place)
    error = 1.959964 * statistics.stdev(measured[gradient]["selectivities"])
    assert row["high"] - row["estimate"] == pytest.approx(error, rel=1e-3)


@pytest.mark.parametrize("gradient", ["natural", "robust"])
def test_cross_term_and_self_loss(rows, measured, gradient):
    own = measured[gradient]
    place = {"gradient": gradient, "point": "source"}
    weight = 1 - LAM if gradient == "natural" else LAM
    first = {r["quantity"]: r["first_order"] for r in of(rows, "loss", **place) if r["low"] != ""}
    assert first["masked"] == pytest.approx(own["cross"], rel=1e-3, abs=1e-7)
    assert first["self"] == pytest.approx(own["self"], rel=1e-3, abs=1e-7)
    trade = {r["quantity"]: r["first_order"] for r in of(rows, "trade", **place, **{"lambda": LAM})}
    assert trade["cross"] == pytest.approx(weight * own["cross"], rel=1e-3, abs=1e-7)
    assert trade["self"] == pytest.approx(own["self"], rel=1e-3, abs=1e-7)
    # Remark 5: both together lead from the source to the merged model.
    assert first["merged"] == pytest.approx(trade["cross"] + trade["self"], rel=1e-3, abs=1e-7)


def test_the_summary_judges_the_table(project):
    summary = read_json(project / "artifacts/theory/interference/summary.json")
    assert summary["verdict"] == "holds"
    assert summary["identity_error"] < 1e-6
    assert summary["lambda"] == LAM
    assert summary["proposition_verdict"] == "holds"
    assert summary["cap_verdicts"]["score_clip"] == "fails"
    assert summary["cap_verdicts"]["renorm"] == "holds"
    assert summary["cap_as_proven"]
    assert summary["measurement"].startswith("16 images that the scores never saw")
    verdicts = {summary[f"{name}_verdict"] for name in ("selectivity", "loss")}
    assert verdicts <= {"holds", "fails", "undecided"}
    assert set(summary["rho_w"]) == {f"{g} at {p}" for g, p in PLACES}


def test_the_figure_is_drawn_from_the_table_alone(project, rows):
    record = Recorded(read_json(project / "artifacts/theory/interference/summary.json"), rows)
    drawn = drawing.draw(record)
    for words in ("predicted: ρ_w", "score_clip", "hollow: first-order term", "at merged"):
        assert words in drawn
    shown = drawing.numbers(record)
    assert len(shown) == len(PLACES) * len(KAPPAS)
    (own,) = of(rows, "kappa", kappa=4.0, gamma=0.5, gradient="robust", point="merged")
    assert own["rho_w"] in [row["rho_w"] for row in shown]


def test_a_vector_that_is_zero_has_no_interference_to_shrink(project):
    with inside(project):
        vectors = Path("artifacts/vectors")
        kept = {s: load_tensors(vectors / f"{s}.safetensors") for s in ("natural", "robust")}
        for source, (tau, about) in kept.items():
            zero = {name: torch.zeros_like(value) for name, value in tau.items()}
            save_tensors(vectors / f"{source}.safetensors", zero, about)
        try:
            assert status("theory", "interference", "--out", "zero") == 0
        finally:
            for source, (tau, about) in kept.items():
                save_tensors(vectors / f"{source}.safetensors", tau, about)
        assert {row["rho_w"] for row in table(Path("zero"))} == {""}
        summary = read_json("zero/summary.json")
        assert summary["verdict"] == summary["loss_verdict"] == "undecided"
        assert set(summary["loss_masked"].values()) == {0}


def test_the_same_run_has_the_same_bytes(project):
    with inside(project):
        assert status("theory", "interference", "--out", "again") == 0
        for name in ("table.csv", "summary.json"):
            first = Path("artifacts/theory/interference", name).read_bytes()
            assert first == Path("again", name).read_bytes()
