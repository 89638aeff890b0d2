"""The check ``linear_frontier``: reading, refusing, one run, and its intervals."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import theory_project
from theory_project import METHODS, record, table

from pistole.baselines.registry import METHODS as METHODS_OF_ALL
from pistole.errors import UserError
from pistole.params import load_params
from pistole.report.figures import linear_frontier as drawing
from pistole.report.inputs import _rows
from pistole.stages.theory import linear_frontier as stage
from tests.e2e.micro import write_micro

project = theory_project.project

COLUMNS = [
    "images",
    "method",
    "lambda",
    "clean",
    "robust",
    "distance",
    "distance_low",
    "distance_high",
]
IDS = {"a": 60, "b": 40}


def write_outcomes(
    folder: Path, method: str, chances: list[tuple[float, float]], ids: dict[str, int] = IDS
) -> None:
    """Outcomes whose accuracies over lambda are near the chances; one draw for all methods."""
    parts = []
    for task, count in ids.items():
        luck = np.random.default_rng(len(task)).random(count)
        names = [f"{task}{i:03d}" for i in range(count)]
        for lam, (clean, robust) in zip(np.linspace(0, 1, len(chances)), chances, strict=True):
            right = luck < clean
            columns = {
                "dataset": [task] * count,
                "id": names,
                "clean_correct": right,
                "robust_correct": pa.array(luck < robust, mask=~right),
                "lambda": [float(lam)] * count,
            }
            parts.append(pa.table(columns).take(np.random.default_rng(0).permutation(count)))
    (folder / "frontier" / method).mkdir(parents=True)
    pq.write_table(pa.concat_tables(parts), folder / "frontier" / method / "outcomes.parquet")


def write_grid(folder: Path) -> None:
    (folder / "select").mkdir()
    lines = ["method,lambda,options,clean,robust"]
    lines += ["gism,1,,0.8,0.2", "gism,0,,0.6,0.4", "gism,0.5,,0.8,0.4"]
    lines += ["gism,0.5,scaling=2,0.1,0.1", "greedy_soup,,natural=1,0.9,0.9"]
    (folder / "select/grid.csv").write_text("\n".join(lines) + "\n")


LINE = [(0.6, 0.4), (0.7, 0.3), (0.8, 0.2)]
BENT = [(0.6, 0.4), (0.8, 0.4), (0.8, 0.2)]


def checked(tmp_path: Path, **curves: list[tuple[float, float]]):
    changes = {"frontier__methods": list(curves), "theory__linear_frontier__resamples": 400}
    params = load_params(write_micro(tmp_path / "params.yaml", **changes))
    for name, chances in curves.items():
        write_outcomes(tmp_path, name, chances)
    write_grid(tmp_path)
    return stage.check(params, tmp_path)


def shape(summary: dict, method: str, images: str = "test") -> dict:
    return next(s for s in summary["methods"] if (s["method"], s["images"]) == (method, images))


def test_a_frontier_far_from_its_chord_fails(tmp_path):
    rows, summary = checked(tmp_path, vanilla=BENT, pistole=LINE)
    assert summary["verdict"] == "fails"
    assert summary["statement"].startswith("Vanilla merging's frontier does not lie within 1 acc")
    found = shape(summary, "vanilla")
    assert found["bend_low"] < found["bend"] < found["bend_high"]
    assert found["bend_low"] > 0
    assert found["max_distance"] == summary["furthest_distance"]
    low, high = summary["furthest_distance_ci95"]
    assert 1 < low < summary["furthest_distance"] < high
    inner = next(r for r in rows if r["method"] == "vanilla" and r["lambda"] == 0.5)
    assert (inner["distance_low"], inner["distance_high"]) == (low, high)


def test_the_same_answers_everywhere_lie_on_one_line(tmp_path):
    """lambda = 1/2 answers half of the images as one end does, half as the other."""
    (tmp_path / "frontier/vanilla").mkdir(parents=True)
    count = 4000
    luck = np.arange(count) % 2 == 0
    ends = np.arange(count) % 100 < 60, np.arange(count) % 100 < 80
    clean = [ends[0], np.where(luck, *ends), ends[1]]
    robust = [c & (np.arange(count) % 100 < r) for c, r in zip(clean, (40, 30, 20), strict=True)]
    tables = [
        pa.table(
            {
                "dataset": ["a"] * count,
                "id": [f"{i:05d}" for i in range(count)],
                "clean_correct": c,
                "robust_correct": r,
                "lambda": [lam] * count,
            }
        )
        for lam, c, r in zip((0.0, 0.5, 1.0), clean, robust, strict=True)
    ]
    pq.write_table(pa.concat_tables(tables), tmp_path / "frontier/vanilla/outcomes.parquet")
    write_grid(tmp_path)
    changes = {"frontier__methods": ["vanilla"], "theory__linear_frontier__resamples": 400}
    params = load_params(write_micro(tmp_path / "params.yaml", **changes))
    rows, summary = stage.check(params, tmp_path)
    assert summary["verdict"] == "holds"
    assert [(r["clean"], r["robust"]) for r in rows[:3]] == [
        (pytest.approx(60), pytest.approx(40)),
        (pytest.approx(70), pytest.approx(30)),
        (pytest.approx(80), pytest.approx(20)),
    ]
    assert summary["bend"] == pytest.approx(0, abs=1e-9)
    assert summary["hypervolume_lead"] == {}  # there is no curve of pistole


def test_accuracies_weigh_every_task_alike_and_need_the_clean_image_right(tmp_path):
    rows, _ = checked(tmp_path, vanilla=BENT, pistole=LINE)
    answers = {task: np.random.default_rng(len(task)).random(count) for task, count in IDS.items()}
    for row in (r for r in rows if r["images"] == "test"):
        curve = BENT if row["method"] == "vanilla" else LINE
        clean, robust = curve[int(2 * row["lambda"])]
        expected = np.mean([(luck < clean).mean() for luck in answers.values()])
        assert row["clean"] == pytest.approx(100 * expected)
        expected = np.mean([(luck < min(clean, robust)).mean() for luck in answers.values()])
        assert row["robust"] == pytest.approx(100 * expected)


def test_pairing_makes_the_lead_exact_where_answers_are_equal(tmp_path):
    _, summary = checked(tmp_path, vanilla=BENT, wise_ft=LINE, pistole=BENT)
    lead = summary["hypervolume_lead"]
    assert lead["vanilla"] == {"value": 0, "low": 0, "high": 0}
    assert 0 < lead["wise_ft"]["low"] < lead["wise_ft"]["value"] < lead["wise_ft"]["high"]
    expected = shape(summary, "pistole")["hypervolume"] - shape(summary, "wise_ft")["hypervolume"]
    assert lead["wise_ft"]["value"] == pytest.approx(expected)
    counts = {(r["method"], r["dominates_of"]): r["points"] for r in summary["dominance"]}
    assert len(counts) == 6
    assert counts["pistole", "vanilla"] == 2  # its own corner is above both ends
    assert counts["pistole", "wise_ft"] == 3
    assert counts["wise_ft", "pistole"] == 0
    assert {row["of"] for row in summary["dominance"]} == {3}


def test_held_out_curves_have_values_without_intervals(tmp_path):
    rows, summary = checked(tmp_path, vanilla=BENT, pistole=LINE)
    found = shape(summary, "gism", "held-out")
    assert found["bend"] == pytest.approx(200)  # half of 20 x 20, above the chord
    assert found["max_distance"] == pytest.approx(20 / np.sqrt(2))
    assert found["hypervolume"] == pytest.approx(32)
    assert {value for key, value in found.items() if key.endswith(("low", "high"))} == {None}
    own = [r for r in rows if r["images"] == "held-out"]
    assert [r["lambda"] for r in own] == [0, 0.5, 1]
    assert [r["distance_low"] for r in own] == [None] * 3


def test_refusals(tmp_path):
    write_outcomes(tmp_path, "vanilla", LINE)
    write_outcomes(tmp_path, "pistole", LINE, {"a": 60, "b": 39})
    write_outcomes(tmp_path, "gism", LINE, {"a": 60})
    write_outcomes(tmp_path, "wise_ft", LINE[:2])
    folder = tmp_path / "frontier"
    with pytest.raises(UserError, match=r"pistole.outcomes.parquet: b has other images or lamb"):
        stage.read_outcomes(folder, ("vanilla", "pistole"))
    with pytest.raises(UserError, match="methods answered other tasks"):
        stage.read_outcomes(folder, ("vanilla", "gism"))
    with pytest.raises(UserError, match=r"a has other images or lambdas than vanilla"):
        stage.read_outcomes(folder, ("vanilla", "wise_ft"))
    with pytest.raises(UserError, match=r"self_mask.outcomes.parquet does not exist: run stage"):
        stage.read_outcomes(folder, ("self_mask",))
    with pytest.raises(UserError, match=r"grid.csv does not exist: run stage select"):
        stage.held_out_curves(tmp_path / "grid.csv")
    part = pq.read_table(folder / "vanilla/outcomes.parquet").slice(1)
    pq.write_table(part, folder / "vanilla/outcomes.parquet")
    with pytest.raises(UserError, match="lambdas answered different images"):
        stage.read_outcomes(folder, ("vanilla",))


# One run


def test_table_and_summary_of_the_micro_project(project):
    lines = table(project, "linear_frontier")
    assert list(lines[0]) == COLUMNS
    tested = [(m, lam) for m in METHODS for lam in ("0.0", "0.5", "1.0")]
    assert [(r["method"], r["lambda"]) for r in lines if r["images"] == "test"] == tested
    for row in record(project, "linear_frontier").rows:
        if row["lambda"] != 0.5:
            assert row["distance"] in ("", pytest.approx(0, abs=1e-9))
    found = record(project, "linear_frontier").summary
    assert found["verdict"] in {"holds", "fails", "undecided"}
    assert "16 test images of all tasks, 3 values of lambda" in found["measurement"]
    selected = {s["method"] for s in found["methods"] if s["images"] == "held-out"}
    listed = load_params(project / "params.yaml").methods
    assert selected == {name for name in listed if not METHODS_OF_ALL[name].matched}
    assert selected < set(listed)
    assert len(found["dominance"]) == 6
    assert set(found["hypervolume_lead"]) == {"vanilla", "wise_ft"}


def test_points_are_those_of_the_frontier(project):
    own = {
        (r["method"], r["lambda"]): r
        for r in record(project, "linear_frontier").rows
        if r["images"] == "test"
    }
    for method in METHODS:
        for row in _rows(project / f"artifacts/frontier/{method}/frontier.csv", "frontier"):
            found = own[method, row["lambda"]]
            assert found["clean"] == pytest.approx(100 * row["clean_mean"])
            assert found["robust"] == pytest.approx(100 * row["robust_mean"])


def test_figure_of_the_micro_project(project):
    found = record(project, "linear_frontier")
    drawn = drawing.draw(found)
    assert drawn == drawing.draw(found)
    for text in ("WiSE-FT", "PISTOLE", "chord", "area between curve and chord"):
        assert text in drawn
    assert len(drawing.numbers(found)) == len(found.summary["methods"]) <= 40
