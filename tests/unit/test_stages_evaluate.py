"""Stage evaluate at the ends of the threat model: a ball of radius 0, and one that holds all."""

import itertools
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pistole.files import load_tensors, read_json, save_tensors, sha256_tensors
from pistole.robust.journal import Journal
from tests.e2e.micro import (
    PREPARED,
    ROOT,
    environment,
    inside,
    run_micro,
    status,
    write_micro,
)


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


def test_every_radius_is_told_and_a_larger_one_is_never_easier(project):
    summary, rows = evaluate(project, "radii", attack__evaluate__radii=["1/255", "4/255", "8/255"])
    assert summary["attack"]["radii"] == [1 / 255, 4 / 255, 8 / 255]
    columns = [rows[n] for n in ("robust_correct@1/255", "robust_correct", "robust_correct@8/255")]
    for small, large in itertools.pairwise([rows["clean_correct"], *columns]):
        assert all(before or not after for before, after in zip(small, large, strict=True))
        assert sum(small) > sum(large)
    for name, task in summary["tasks"].items():
        own = [i for i, dataset in enumerate(rows["dataset"]) if dataset == name]
        for radius, share in task["robust_at"].items():
            assert share == sum(rows[f"robust_correct@{radius}"][i] for i in own) / 16
        assert list(task["robust_at"]) == ["1/255", "8/255"]
        assert task["ladder"]["images"] == 4
    with inside(project):
        out = ["--out", "other", "--metrics", "means.json"]
        assert status("evaluate", "radii", "--model", "artifacts/base", *out) == 0
        told = read_json("means.json")
    assert told.keys() == {
        *("clean_mean", "robust_mean", "sum", "robust@1/255/mean", "robust@8/255/mean")
    }
    assert told["robust@1/255/mean"] == pytest.approx(sum(columns[0]) / 32)


def test_after_the_resize_is_another_threat_model_and_told(project):
    summary, rows = evaluate(project, "resized", attack__evaluate__domain="resized")
    native, same = evaluate(project, "native")
    assert summary["attack"]["domain"] == "resized"
    assert native["attack"]["domain"] == "native"
    # The world's images have the tower's size: nothing is resized, and nothing changes.
    assert rows == same


KILLED = """
import os, signal, sys
from pistole.robust.journal import Journal
from tests.e2e.micro import status

left, keep = iter(range({after})), Journal.keep

def kept_then_killed(self, *batch):
    keep(self, *batch)
    if next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)

Journal.keep = kept_then_killed
sys.exit(status("evaluate", "again", "--model", {model!r}))
"""


def killed_after(project: Path, after: int, model: str = "artifacts/base") -> None:
    """Start ``pistole evaluate`` in a process of its own that dies after so many batches."""
    code = KILLED.format(after=after, model=model)
    env = environment() | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=project, env=env, check=False)
    assert done.returncode == -signal.SIGKILL


def test_a_killed_evaluation_goes_on_and_ends_with_the_same_bytes(project, monkeypatch, capsys):
    out = project / "artifacts/evaluation/again"
    changes = {"attack__evaluate__batch_size": 5, "attack__eps": "1/255"}
    evaluate(project, "again", **changes)
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    shutil.rmtree(out)
    killed_after(project, 3)
    assert not out.exists()
    folder = project / ".pistole/resume/evaluate-again"
    assert sum(len(file.read_text().splitlines()) - 1 for file in folder.iterdir()) == 4

    attacked, keep = [], Journal.keep
    monkeypatch.setattr(Journal, "keep", lambda *batch: attacked.append(keep(*batch)))
    known, recall = [], Journal.recall
    monkeypatch.setattr(Journal, "recall", lambda *b: known.append(recall(*b)) or known[-1])
    capsys.readouterr()
    evaluate(project, "again", **changes)
    assert ": 4 attacked batches kept from a killed run\n" in capsys.readouterr().err
    assert sum(batch is not None for batch in known) == 4
    assert len(attacked) == len(known) - 4 > 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
    assert not folder.exists()


def test_another_model_or_attack_does_not_go_on_from_it(project, monkeypatch):
    changes = {"attack__evaluate__batch_size": 5, "attack__eps": "1/255"}
    tensors, about = load_tensors(project / "artifacts/base/visual.safetensors")
    first = min(tensors)
    tensors[first] = tensors[first] * (1 + 1e-6)
    save_tensors(project / "moved.safetensors", tensors, about)
    known, recall = [], Journal.recall
    monkeypatch.setattr(Journal, "recall", lambda *b: known.append(recall(*b)) or known[-1])
    for model, other in (
        ("moved.safetensors", {}),
        ("artifacts/base", {"attack__evaluate__apgd_ce__steps": 4}),
        ("artifacts/base", {"seed": 1}),
    ):
        with inside(project):
            write_micro(Path("params.yaml"), **changes)
        killed_after(project, 2)
        known.clear()
        evaluate(project, "again", model=model, **{**changes, **other})
        assert known
        assert all(batch is None for batch in known)
