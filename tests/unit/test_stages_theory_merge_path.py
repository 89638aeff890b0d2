"""One run of the check ``merge_path`` on a project of a handful of images."""

import csv
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pistole.files import read_json, write_csv
from pistole.method.ball import layer_variances
from pistole.params import load_params
from pistole.report.figures import merge_path as drawing
from pistole.report.inputs import Recorded
from pistole.seeds import derive
from pistole.stages.composing import read_ingredients
from pistole.stages.losses import Objective
from pistole.stages.runtime import attack_budget, classifier, device_of
from pistole.stages.slices import read_slice
from pistole.stages.theory.merge_path import check
from pistole.theory.curvature import hessian_operator
from pistole.theory.sharpness import average_sharpness, weighted_traces
from pistole.theory.spectrum import extreme_eigenvalues
from tests.e2e.micro import FINETUNED, PREPARED, SCORED, inside, run_micro, status

CHANGES = {
    "theory__merge_path__samples": 16,
    "theory__merge_path__lambdas": [0, 0.5],
    "theory__merge_path__iterations": 3,
    "stability__batch_size": 6,  # 16 images in three passes
    "attack__calibration__init": "zero",  # so that a test can attack again without a seed
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro project up to the masks, the grid of two methods, and the check."""
    folder = run_micro(tmp_path_factory.mktemp("path"), [*PREPARED, *FINETUNED, *SCORED], **CHANGES)
    grid = [
        {"method": method, "lambda": lam, "options": "", "clean": 0.5 + lam, "robust": 0.25}
        for method in ("vanilla", "pistole")
        for lam in (0.0, 0.1, 0.5)
    ]
    searched = {"options": '{"scaling": 2.0}', "clean": 0.0, "robust": 0.0}
    grid += [{"method": "vanilla", "lambda": 0.1, **searched}]
    grid += [{"method": "greedy_soup", "lambda": None, **searched}]
    write_csv(folder / "artifacts/select/grid.csv", list(grid[0]), grid)
    with inside(folder):
        assert status("theory", "merge_path", "--out", "artifacts/theory/merge_path") == 0
    return folder


@pytest.fixture(scope="module")
def rows(project: Path) -> list[dict]:
    def value(text: str) -> object:
        try:
            return float(text)
        except ValueError:
            return text

    with (project / "artifacts/theory/merge_path/table.csv").open(newline="") as stream:
        return [{k: value(v) for k, v in row.items()} for row in csv.DictReader(stream)]


def test_the_table(rows):
    methods = ("vanilla", "pistole", "permuted_mask_1")
    places = [
        (m, lam, loss) for m in methods for lam in (0.0, 0.5) for loss in ("natural", "robust")
    ]
    assert [(r["method"], r["lambda"], r["loss"]) for r in rows] == places
    for row in rows:
        assert row["distance"] > 0
        assert row["trace_error"] > 0
        assert row["sharpness_error"] > 0
        assert row["bottom_eigenvalue"] <= row["top_eigenvalue"]
        assert row["top_residual"] > 0
        if row["method"] == "permuted_mask_1":
            assert row["select_sum"] == row["select_clean"] == row["select_robust"] == ""
        else:
            assert row["select_sum"] == 0.75 + row["lambda"]
    robust, natural = ([r for r in rows if r["loss"] == loss] for loss in ("robust", "natural"))
    assert all(a["mean_loss"] > b["mean_loss"] for a, b in zip(robust, natural, strict=True))
    # Masks shrink the displacement.
    far = {(r["method"], r["lambda"]): r["distance"] for r in rows}
    assert far["pistole", 0.5] < far["vanilla", 0.5]


def test_the_summary(project):
    summary = read_json(project / "artifacts/theory/merge_path/summary.json")
    assert summary["verdict"] in {"holds", "fails", "undecided"}
    assert summary["ranks_with_sum"][0]["n"] == 4
    assert summary["measurement"].startswith("16 images that the scores never saw, 3 methods at 2")
    assert "not the Hessian" in summary["measurement"]


def test_a_row_by_hand(project, rows):
    """The robust loss of PISTOLE at lambda 0.5: composed, attacked and measured again."""
    with inside(project):
        params = load_params("params.yaml")
        artifacts = Path("artifacts")
        device = device_of(params)
        images = read_slice(artifacts / "data/clutter", "measure", 16)
        objective = Objective(classifier(artifacts / "base", "clutter", device), images, 16)
        vectors = [artifacts / f"vectors/{s}.safetensors" for s in ("natural", "robust")]
        theta = read_ingredients(
            params, "pistole", artifacts / "base", *vectors, artifacts / "masks"
        ).compose("pistole", 0.5)
        pixels = objective.attacked(theta, attack_budget(params, "calibration"), 0)

    def loss(part: Tensor):
        return lambda t: -objective.log_prob(t, pixels, part).double().mean()

    parts = [loss(torch.tensor([k])) for k in range(16)]
    everything = loss(torch.arange(16))
    place = {"eta": 0.005, "dist": "sphere", "ball": "layer", "perturb_1d": False}
    seed = derive(params.seed, "theory", "merge_path")
    trace = weighted_traces(parts, theta, layer_variances(theta, **place), probes=2, seed=seed)
    sharp = average_sharpness(parts, theta, pairs=2, seed=seed, **place)
    ends = extreme_eigenvalues(hessian_operator(everything, theta), theta, iterations=3, seed=seed)
    row = next(
        r for r in rows if (r["method"], r["lambda"], r["loss"]) == ("pistole", 0.5, "robust")
    )
    # In batches of another size the attack rounds a few tiny gradients to the other sign.
    assert row["mean_loss"] == pytest.approx(everything(theta).item(), rel=1e-3)
    for name, values in (("trace", trace), ("sharpness", sharp)):
        error = values.std().item() / 4
        assert row[name] == pytest.approx(values.mean().item(), abs=0.2 * error)
        assert row[f"{name}_error"] == pytest.approx(error, rel=0.1)
    assert row["top_eigenvalue"] == pytest.approx(ends.top, rel=5e-2)
    assert row["bottom_eigenvalue"] == pytest.approx(ends.bottom, rel=5e-2)


def test_one_pass_over_the_images_measures_the_same(project, rows):
    with inside(project):
        params = load_params("params.yaml")
        path = params.theory.merge_path.model_copy(
            update={"methods": ("pistole",), "lambdas": (0.5,)}
        )
        changed = {
            "stability": params.stability.model_copy(update={"batch_size": 16}),
            "theory": params.theory.model_copy(update={"merge_path": path}),
        }
        found, _ = check(params.model_copy(update=changed), Path("artifacts"))
    theirs = [r for r in rows if (r["method"], r["lambda"]) == ("pistole", 0.5)]
    for ours, row in zip(found, theirs, strict=True):
        assert ours["top_eigenvalue"] == pytest.approx(row["top_eigenvalue"], rel=5e-2)
        assert ours["trace"] == pytest.approx(row["trace"], abs=0.2 * row["trace_error"])


def test_the_run_needs_the_grid_of_select(project, capsys):
    with inside(project):
        grid = Path("artifacts/select/grid.csv")
        kept = grid.read_bytes()
        grid.unlink()
        try:
            capsys.readouterr()
            assert status("theory", "merge_path", "--out", "nothing") == 2
            assert "grid.csv does not exist: run stage select" in capsys.readouterr().err
        finally:
            grid.write_bytes(kept)


def test_the_figure(project, rows):
    summary = read_json(project / "artifacts/theory/merge_path/summary.json")
    record = Recorded(summary, rows)
    assert drawing.draw(record) == drawing.draw(record)
    told = drawing.numbers(record)
    assert len(told) == 6
    assert len({tuple(row) for row in told}) == 1
