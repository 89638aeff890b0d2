"""What the report refuses to read, and that it compares like with like."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from report_artifacts import TASKS, make_params, write_artifacts
from report_files import write_json

from pistole.errors import UserError
from pistole.report.inputs import read_results
from pistole.report.tables import TITLES
from pistole.stages import report


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Results of all earlier stages."""
    return write_artifacts(tmp_path / "artifacts")


def edit(path: Path, change) -> None:
    """Rewrite a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    write_json(path, value)


def test_sources_of_the_frontier_are_measured_like_its_lines(artifacts: Path) -> None:
    results = read_results(make_params(), artifacts)
    rows = pq.read_table(artifacts / "evaluation" / "robust" / "outcomes.parquet").to_pylist()
    drawn = [[r for r in rows if r["dataset"] == task][1::2] for task in TASKS]
    keys = ("clean_correct", "apgd_ce_correct")
    expected = [np.mean([np.mean([r[k] for r in part]) for part in drawn]) for k in keys]
    assert results.anchors["robust"] == pytest.approx(tuple(expected))


@pytest.mark.parametrize(
    ("gone", "stage"),
    [
        ("evaluation/vanilla/outcomes.parquet", "evaluate@vanilla"),
        ("evaluation/base/summary.json", "evaluate@base"),
        ("frontier/pistole", "frontier@pistole"),
        ("theory/pci_trace/table.csv", "theory@pci_trace"),
        ("select/lambda.json", "select"),
        ("merged/wise_ft", "merge@wise_ft"),
        ("checkpoints/robust/curve.csv", "finetune@robust"),
        ("stability/natural", "stability@natural"),
        ("masks/statistics.csv", "masks"),
        ("gallery/gallery.json", "gallery"),
        ("gallery/images.safetensors", "gallery"),
        ("merged/zero_nat", "merge@zero_nat"),
        ("evaluation/random_score", "evaluate@random_score"),
    ],
)
def test_missing_input_names_its_stage(
    artifacts: Path, tmp_path: Path, gone: str, stage: str
) -> None:
    path = artifacts / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=f"run stage {stage},"):
        report.run(make_params(), artifacts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_models_that_answered_other_images_are_not_compared(artifacts: Path) -> None:
    path = artifacts / "evaluation" / "pistole" / "outcomes.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    with pytest.raises(UserError, match="pistole and base answered other images of clutter"):
        read_results(make_params(), artifacts)


@pytest.mark.parametrize("key", ["attack", "seed"])
def test_models_under_another_attack_are_not_compared(artifacts: Path, key: str) -> None:
    edit(artifacts / "evaluation" / "pistole" / "summary.json", lambda s: s.update({key: 7}))
    with pytest.raises(UserError, match=f"evaluated with another {key}"):
        read_results(make_params(), artifacts)


def test_data_that_changed_in_between_is_noticed(artifacts: Path) -> None:
    def change(summary: dict) -> None:
        summary["tasks"]["digit"]["data_digest"] = "e" * 64

    edit(artifacts / "evaluation" / "vanilla" / "summary.json", change)
    with pytest.raises(UserError, match="other images of digit"):
        read_results(make_params(), artifacts)


def test_a_task_without_evaluation_is_named(artifacts: Path) -> None:
    params = make_params(datasets=[*TASKS, "letter"])
    with pytest.raises(UserError, match="evaluation of base lacks letter"):
        read_results(params, artifacts)


def test_a_check_that_was_not_run_is_left_out(artifacts: Path) -> None:
    shutil.rmtree(artifacts / "theory" / "conflict_map")
    results = read_results(make_params(), artifacts)
    assert list(results.theory) == list(TITLES)[:-1]


def test_frontier_is_of_the_methods_listed_for_it(artifacts: Path) -> None:
    knobs = {"methods": ["vanilla", "gism"], "grid": [0, 1], "images": 20}
    results = read_results(make_params(frontier=knobs), artifacts)
    assert list(results.frontier) == ["vanilla", "gism"]


def test_lambdas_are_in_the_order_of_the_table(artifacts: Path) -> None:
    lambdas = read_results(make_params(), artifacts).lambdas
    assert list(lambdas)[:3] == ["wise_ft", "vanilla", "gism"]
