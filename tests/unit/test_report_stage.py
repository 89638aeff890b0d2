"""The files that stage ``report`` writes of synthetic results."""

import csv
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from report_artifacts import TASKS, make_params
from report_files import write_csv, write_json

from pistole.report import figures
from pistole.report.tables import ABLATION, CONTROLS, MAIN, PERMUTED, TITLES
from pistole.stages import report

pytestmark = pytest.mark.usefixtures("figures_of_the_records")


def test_metrics_have_the_documented_schema(artifacts: Path, written: Path) -> None:
    metrics = json.loads((written / "metrics.json").read_text())
    assert set(metrics) == {
        "profile",
        "models",
        "ablation",
        "controls",
        "caution",
        "frontier",
        "theory",
        "select",
        "differences",
        "mcnemar",
    }
    assert metrics["profile"] == "demo"
    for name, model in metrics["models"].items():
        stored = json.loads((artifacts / "evaluation" / name / "summary.json").read_text())
        for kind in ("clean", "robust"):
            assert model[kind] == {t: stored["tasks"][t][kind] for t in TASKS}
            assert model[f"{kind}_mean"] == pytest.approx(np.mean(list(model[kind].values())))
            assert set(model["ci95"][kind]) == set(TASKS)
        assert model["sum"] == pytest.approx(model["clean_mean"] + model["robust_mean"])
        assert model["n"] == dict.fromkeys(TASKS, 40)
        assert model["digest"] == stored["digest"]
        assert model.get("lambda") == stored["lineage"].get("lambda")
        for key in ("clean_mean", "robust_mean", "sum"):
            low, high = model["ci95"][key]
            assert low < model[key] < high
    assert metrics["frontier"]["vanilla"][0] == {
        "lambda": 0.0,
        "clean_mean": 0.74,
        "robust_mean": 0.47,
    }
    assert metrics["theory"]["pci_trace"]["spearman"] == 0.93
    assert metrics["select"]["lambda"]["pistole"] == 0.5
    assert set(metrics["differences"]) == set(metrics["models"]) - {"pistole"}
    own, other = metrics["models"]["pistole"], metrics["models"]["vanilla"]
    assert metrics["differences"]["vanilla"]["sum"]["value"] == pytest.approx(
        own["sum"] - other["sum"]
    )
    pooled = metrics["controls"]["pooled"]
    permuted = [metrics["models"][name]["sum"] for name in PERMUTED]
    assert pooled["sum"] == pytest.approx(np.mean(permuted))
    assert metrics["ablation"]["models"] == list(ABLATION)
    assert metrics["controls"]["models"] == list(CONTROLS)
    assert set(metrics["theory"]) == set(TITLES)


def test_stage_returns_numbers_for_the_tracker(artifacts: Path, tmp_path: Path) -> None:
    written = tmp_path / "report"
    flat = report.run(make_params(), artifacts, written)
    metrics = json.loads((written / "metrics.json").read_text())
    assert flat["sum/pistole"] == metrics["models"]["pistole"]["sum"]
    assert flat["pistole_minus/base"] == metrics["differences"]["base"]["sum"]["value"]
    assert all(isinstance(value, float) for value in flat.values())


def test_two_runs_write_equal_bytes(artifacts: Path, written: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere" / "report"
    report.run(make_params(), artifacts, again)
    files = sorted(p.relative_to(written) for p in written.rglob("*") if p.is_file())
    drawn = sorted([*figures.CHECKS, "plane", "frontier", "mask_atlas", "training"])
    assert [str(p) for p in files] == [
        *(f"figures/{name}.svg" for name in drawn),
        "index.html",
        "metrics.json",
        "table.csv",
    ]
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for path in files:
        assert (written / path).read_bytes() == (again / path).read_bytes(), path


def test_other_files_of_the_folder_stay(artifacts: Path, written: Path, tmp_path: Path) -> None:
    written = Path(shutil.copytree(written, tmp_path / "report"))
    (written / "mine.txt").write_text("kept")
    (written / "figures" / "old.svg").write_text("stale")
    report.run(make_params(), artifacts, written)
    assert (written / "mine.txt").read_text() == "kept"
    assert not (written / "figures" / "old.svg").exists()


def test_figures_are_svg_without_date_and_with_text(written: Path) -> None:
    for path in (written / "figures").iterdir():
        text = path.read_text()
        ElementTree.fromstring(text)
        assert "dc:date" not in text
        assert "matplotlib v" not in text.lower()
    frontier = (written / "figures" / "frontier.svg").read_text()
    for word in ("PISTOLE", "Vanilla", "WiSE-FT", "Base", "λ = 0", "λ = 1"):
        assert f">{word}</text>" in frontier


def test_table_csv_has_a_row_per_model_with_its_identity(written: Path) -> None:
    with (written / "table.csv").open(newline="") as stream:
        rows = {row["model"]: row for row in csv.DictReader(stream)}
    metrics = json.loads((written / "metrics.json").read_text())
    assert list(rows) == [*MAIN[:-1], *ABLATION[1:], *CONTROLS]
    assert float(rows["pistole"]["sum"]) == metrics["models"]["pistole"]["sum"]
    assert float(rows["base"]["sum_low"]) == metrics["models"]["base"]["ci95"]["sum"][0]
    assert rows["base"]["lambda"] == ""
    assert rows["pistole"]["lambda"] == "0.5"
    assert rows["pistole"]["data_digest/digit"] == "d" * 64
    assert json.loads(rows["pistole"]["attack"])["apgd_ce"] == {"steps": 30, "restarts": 1}


def test_own_checkpoints_need_no_curve(artifacts: Path, tmp_path: Path) -> None:
    for source in ("natural", "robust"):
        (artifacts / "checkpoints" / source / "curve.csv").write_text("step,loss,lr\n")
    report.run(make_params(), artifacts, tmp_path / "out")
    assert not (tmp_path / "out" / "figures" / "training.svg").exists()


def test_gaps_in_the_theory_tables_are_drawn_as_gaps(artifacts: Path, tmp_path: Path) -> None:
    table = artifacts / "theory" / "interference" / "table.csv"
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows[-1] |= {"envelope_ratio": "0.0", "rho_w": "nan", "selectivity_permuted": ""}
    write_csv(table, rows)
    summary = artifacts / "theory" / "pci_trace" / "summary.json"
    told = json.loads(summary.read_text())
    told["by_eta"][0]["spearman"] = None
    write_json(summary, told)
    report.run(make_params(), artifacts, tmp_path / "out")
    ElementTree.parse(tmp_path / "out" / "figures" / "interference.svg")
