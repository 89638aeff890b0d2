"""Stage evaluate at the ends of the threat model: a ball of radius 0, and one that holds all."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pistole.files import load_tensors, read_json, sha256_tensors
from tests.e2e.micro import PREPARED, inside, run_micro, status, write_micro


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_micro(tmp_path_factory.mktemp("evaluate"), PREPARED)


def evaluate(project: Path, name: str, model: str = "artifacts/base", **changes):
    """Return the summary of ``pistole evaluate`` and the columns of its table."""
    with inside(project):
        write_micro(Path("params.yaml"), **changes)
        assert status("evaluate", name, "--model", model) == 0
        out = Path("artifacts/evaluation") / name
        return read_json(out / "summary.json"), pq.read_table(out / "outcomes.parquet").to_pydict()


def test_eps_0_changes_nothing(project):
    summary, rows = evaluate(project, "none", attack__eps=0)
    assert summary["attack"]["eps"] == 0
    assert rows["robust_correct"] == rows["clean_correct"]
    assert {cause for cause in rows["broken_by"] if cause} <= {"clean"}
    for task in summary["tasks"].values():
        assert task["robust"] == task["clean"] > 0


def test_eps_1_breaks_nearly_everything(project):
    summary, rows = evaluate(project, "all", attack__eps="255/255")
    assert summary["attack"]["eps"] == 1
    assert all(
        clean or not robust
        for clean, robust in zip(rows["clean_correct"], rows["robust_correct"], strict=True)
    )
    tasks = summary["tasks"].values()
    assert all(task["robust"] <= task["clean"] for task in tasks)
    assert sum(task["clean"] for task in tasks) / len(tasks) > 0.5
    assert sum(task["robust"] for task in tasks) / len(tasks) < 0.1


def test_a_larger_ball_never_makes_the_demo_more_robust(project):
    robust = [
        sum(evaluate(project, "grow", attack__eps=eps)[1]["robust_correct"])
        for eps in (0, "1/255", "4/255")
    ]
    assert robust == sorted(robust, reverse=True)
    assert robust[0] > robust[-1]


def test_the_summary_agrees_with_the_rows_and_names_the_weights(project):
    effort = {"apgd_ce__steps": 2, "apgd_t__steps": 10, "apgd_t__targets": 5}
    changes = {f"attack__evaluate__{key}": value for key, value in effort.items()}
    summary, rows = evaluate(project, "rows", attack__eps="2/255", **changes)
    # Each attack breaks some image, so that no column stands in for another.
    attacks = ("clean", "apgd_ce", "robust")
    assert len({sum(rows[f"{kind}_correct"]) for kind in attacks}) == len(attacks)
    assert list(summary["tasks"]) == sorted(set(rows["dataset"])) == ["clutter", "shape"]
    for name, task in summary["tasks"].items():
        own = [i for i, dataset in enumerate(rows["dataset"]) if dataset == name]
        assert task["n"] == len(own) == len({rows["id"][i] for i in own}) == 16
        for kind in ("clean", "robust"):
            assert task[kind] == sum(rows[f"{kind}_correct"][i] for i in own) / 16
        index = read_json(project / "artifacts/data" / name / "test/index.json")
        assert task["data_digest"] == index["digest"]
        assert [rows["label"][i] for i in own] == index["labels"]
    tower = load_tensors(project / "artifacts/base/visual.safetensors")[0]
    assert summary["digest"] == sha256_tensors(tower)
    assert summary["lineage"]["record"] == "model.json"


def test_batches_and_the_form_of_the_model_change_no_outcome(project):
    summary, rows = evaluate(project, "folder")
    other, same = evaluate(
        project, "file", model="artifacts/base/visual.safetensors", attack__evaluate__batch_size=5
    )
    assert same == rows
    assert json.dumps(other["tasks"]) == json.dumps(summary["tasks"])
    assert other["digest"] == summary["digest"]
    assert other["lineage"] == {"record": None}
