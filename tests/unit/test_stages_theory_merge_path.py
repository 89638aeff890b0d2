"""Theory check ``merge_path``: verdicts on synthetic curves, and one run on few images."""

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
from pistole.stages.losses import Objective, calibration_budget
from pistole.stages.runtime import classifier, device_of
from pistole.stages.slices import read_slice
from pistole.stages.theory.merge_path import check
from pistole.theory.curvature import hessian_operator
from pistole.theory.path import Point
from pistole.theory.path_summary import Setting, summarise
from pistole.theory.sharpness import average_sharpness, weighted_traces
from pistole.theory.spectrum import Spectrum, extreme_eigenvalues
from tests.e2e.micro import FINETUNED, PREPARED, SCORED, inside, run_micro, status

LAMBDAS = (0.0, 0.2, 0.5, 1.0)
ABOUT = Setting(images=32, eta=0.005, probes=2, pairs=4, iterations=6, resamples=200, seed=0)
FLAT = (2.0, 1.0, 3.0, 5.0)  # PISTOLE's curve: lowest at 0.2
SUMS = {0.0: 0.9, 0.2: 1.0, 0.5: 0.8, 1.0: 0.5}  # falls as FLAT rises


def curve(
    method: str,
    means: tuple[float, ...],
    *,
    loss: str,
    size: float = 0.1,
    distances: tuple[float, ...] = (4.0, 3.0, 2.0, 1.0),
    held: bool = True,
) -> list[Point]:
    """Points with the given traces; the sharpness is half of them, the eigenvalue their double."""
    source = torch.Generator().manual_seed(sum(map(ord, method)))
    points = []
    for lam, mean, far in zip(LAMBDAS, means, distances, strict=True):
        noise = torch.randn(16, generator=source, dtype=torch.float64) * size
        values = mean + noise - noise.mean()
        ends = Spectrum(2 * mean, 0.1, -1.0, 0.1)
        accuracy = (SUMS[lam] - 0.1, 0.1) if held else None
        points.append(Point(method, lam, loss, far, 1.0, values, values / 2, ends, accuracy))
    return points


def both(means: tuple[float, ...] = FLAT, rival: float = 1.0, **options) -> list[Point]:
    """PISTOLE and a vanilla path that lies ``rival`` higher, for both losses."""
    above = tuple(mean + rival for mean in means)
    return [
        point
        for loss in ("natural", "robust")
        for method, values in (("vanilla", above), ("pistole", means))
        for point in curve(method, values, loss=loss, **options)
    ]


def test_all_three_claims():
    found = summarise(both(), ABOUT)
    assert found["verdict"] == "holds"
    assert found["sub_verdicts"] == {
        f"{claim} {loss}": "holds"
        for claim in ("below_vanilla", "minimum", "ranks_with_sum")
        for loss in ("natural", "robust")
    }
    same = found["below_vanilla"]
    assert [(row["loss"], row["measure"]) for row in same] == [
        ("natural", "trace"), ("natural", "sharpness"), ("robust", "trace"), ("robust", "sharpness")
    ]  # fmt: skip
    assert same[0]["differences"] == pytest.approx([-1.0] * 4)
    assert same[1]["differences"] == pytest.approx([-0.5] * 4)
    assert (same[0]["below"], same[0]["above"], same[0]["compared"]) == (4, 0, 4)
    assert {row["lambda"] for row in found["minimum"]} == {0.2}
    assert found["largest_residual"] == pytest.approx(0.1 / 2)  # of the smallest spectrum
    assert found["negative_traces"] == 0
    assert (
        "everywhere, flattest near lambda 0.2, with flatter models scoring higher, holds"
        in (found["statement"])
    )


def replaced(points: list[Point], loss: str, means: tuple[float, ...], method="pistole", **more):
    others = [p for p in points if (p.method, p.loss) != (method, loss)]
    return others + curve(method, means, loss=loss, **more)


@pytest.mark.parametrize(
    ("points", "failing"),
    [
        (replaced(both(), "natural", (2.0, 1.0, 3.0, 7.0)), "below_vanilla natural"),
        (replaced(both(rival=9.0), "robust", (2.0, 1.0, 3.0, 0.5)), "minimum robust"),
        (
            replaced(both(rival=9.0), "robust", (2.0, 1.0, 0.1, 0.05)),
            "minimum robust",
        ),
    ],
)
def test_one_failing_claim_fails_the_check(points, failing):
    found = summarise(points, ABOUT)
    assert found["verdict"] == "fails"
    assert found["sub_verdicts"][failing] == "fails"
    assert found["sub_verdicts"]["below_vanilla robust"] == "holds"


def test_a_higher_curvature_that_goes_with_a_higher_sum_fails():
    turned = {0.0: 0.8, 0.2: 0.5, 0.5: 0.9, 1.0: 1.0}
    points = [
        Point(p.method, p.lam, p.loss, p.distance, 1.0, p.trace, p.sharpness, p.spectrum,
              (turned[p.lam], 0.0))
        for p in both()
    ]  # fmt: skip
    found = summarise(points, ABOUT)
    assert found["verdict"] == "fails"
    assert found["sub_verdicts"]["ranks_with_sum natural"] == "fails"
    rank = found["ranks_with_sum"][0]
    assert rank["n"] == 8
    assert rank["spearman"] > 0.8
    assert rank["spearman_ci95"][0] <= rank["spearman"] <= rank["spearman_ci95"][1]


def test_noise_leaves_it_undecided():
    found = summarise(both(size=30.0), ABOUT)
    assert found["verdict"] == "undecided"
    assert found["sub_verdicts"]["below_vanilla natural"] == "undecided"
    assert (
        "flattest near lambda 0.2, with flatter models scoring higher, is undecided"
        in (found["statement"])
    )


def test_without_vanilla_or_held_out_sums_nothing_is_claimed():
    alone = [p for p in both() if p.method == "pistole"]
    found = summarise(alone, ABOUT)
    assert (found["verdict"], found["below_vanilla"]) == ("undecided", [])
    blind = summarise(both(held=False), ABOUT)
    assert (blind["verdict"], blind["ranks_with_sum"]) == ("undecided", [])
    assert blind["sub_verdicts"]["minimum natural"] == "holds"


def test_a_control_without_held_out_sums_is_left_out_of_the_correlation_alone():
    control = [
        p for loss in ("natural", "robust")
        for p in curve("permuted_mask_1", (9.0, 8.0, 7.0, 6.0), loss=loss, held=False)
    ]  # fmt: skip
    found = summarise([*both(), *control], ABOUT)
    assert found["ranks_with_sum"] == summarise(both(), ABOUT)["ranks_with_sum"]
    assert {row["other"] for row in found["same_distance"]} == {"vanilla", "permuted_mask_1"}


def test_paths_are_compared_at_equal_distance():
    # PISTOLE is half as far from the base: at distance 2 and 1 vanilla has lambda 0.5 and 1.
    points = [
        *curve("vanilla", (1.0, 2.0, 3.0, 4.0), loss="natural"),
        *curve("pistole", (3.5, 3.4, 3.3, 3.2), loss="natural", distances=(2.0, 1.5, 1.0, 0.5)),
        *curve("vanilla", FLAT, loss="robust"),
        *curve("pistole", FLAT, loss="robust", distances=(9.0, 8.0, 7.0, 6.0)),
    ]
    natural, robust = summarise(points, ABOUT)["same_distance"]
    assert natural["lambdas"] == [0.0, 0.2, 0.5]  # at 0.5 vanilla never is
    # Vanilla at distance 2, 1.5 and 1 has 3, 3.5 and 4.
    assert natural["differences"] == pytest.approx([0.5, -0.1, -0.7], abs=1e-6)
    assert natural["verdict"] == "fails"
    assert robust == {"loss": "robust", "other": "vanilla", "verdict": None, "compared": 0}


def test_negative_traces_of_the_robust_loss_are_counted():
    points = replaced(both(), "robust", (-2.0, -3.0, -1.0, 1.0))
    assert summarise(points, ABOUT)["negative_traces"] == pytest.approx(3 / 8)


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
        {"method": method, "lambda": lam, "clean": 0.5 + lam, "robust": 0.25}
        for method in ("vanilla", "pistole")
        for lam in (0.0, 0.1, 0.5)
    ]
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
        pixels = objective.attacked(theta, calibration_budget(params), 0)

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
    assert row["mean_loss"] == pytest.approx(everything(theta).item(), rel=1e-4)
    assert row["trace"] == pytest.approx(trace.mean().item(), rel=1e-2)
    assert row["trace_error"] == pytest.approx(trace.std().item() / 4, rel=1e-2)
    assert row["sharpness"] == pytest.approx(sharp.mean().item(), rel=2e-2)
    assert row["top_eigenvalue"] == pytest.approx(ends.top, rel=1e-2)
    assert row["bottom_eigenvalue"] == pytest.approx(ends.bottom, rel=1e-2)


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
        assert ours["top_eigenvalue"] == pytest.approx(row["top_eigenvalue"], rel=1e-2)
        assert ours["trace"] == pytest.approx(row["trace"], rel=1e-2, abs=1e-7)


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
