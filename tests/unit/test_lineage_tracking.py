"""One run and one receipt per stage: with the real DVC and a real MLflow database."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pistole.errors import UserError
from pistole.lineage import store, tracking
from pistole.lineage.hashing import run_key
from pistole.lineage.tracking import stage_run, tracking_uri

STAGE = """
import sys
from pathlib import Path
from pistole.lineage.tracking import stage_run

with stage_run("by-hand") as run:
    for step in range(3):
        run.metric("loss", 1 / (step + 1), step)
    out = Path("out") / sys.argv[1]
    out.mkdir(parents=True)
    (out / "weights.txt").write_text(sys.argv[1])
    (out / "curve.png").write_bytes(b"png")
    run.metric("accuracy", 0.5)
    run.figure(out / "curve.png")
    run.table("tasks", [{"task": "a", "clean": 0.5}, {"task": "b", "n": 2}])
    if sys.argv[1] == "bad":
        raise ValueError("the weights\\nare NaN")
"""
DVC_YAML = (
    """
stages:
  train:
    foreach: [good, also, bad]
    do:
      cmd: %s stage.py ${item}
      deps: [stage.py, data]
      params: [seed, lr, attack, nothing]
      outs: ["out/${item}"]
      metrics: []
"""
    % sys.executable
)
PARAMS = "seed: 0\nlr: 1.0e-4\nattack: {eps: 2/255, steps: [1, 2]}\nnothing: null\nother: 1\n"


@pytest.fixture
def clean_env(monkeypatch):
    names = [name for name in os.environ if name.startswith(("DVC_", "MLFLOW_", "PISTOLE_"))]
    for name in [*names, "SLURM_JOB_ID"]:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.fixture
def project(tmp_path, clean_env):
    from dvc.repo import Repo

    Repo.init(str(tmp_path), no_scm=True).close()
    files = {
        "stage.py": STAGE,
        "dvc.yaml": DVC_YAML,
        "params.yaml": PARAMS,
        "data/x.txt": "x",
        "envs/runtime.txt": "torch==2\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    clean_env.chdir(tmp_path)
    clean_env.setenv("SLURM_JOB_ID", "17")
    return tmp_path


def repro(*arguments):
    command = [sys.executable, "-m", "dvc", "repro", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def rows(project, query):
    """Ask the database itself: importing mlflow here would cost seconds."""
    database = sqlite3.connect(project / "mlflow.db")
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def test_dvc_repro_records_runs_that_dvc_lock_agrees_with(project):
    from ruamel.yaml import YAML

    code, output = repro("train@good", "train@also")
    assert code == 0, output
    assert "alembic" not in output
    assert "warning" not in output.lower()
    entry = YAML(typ="safe").load(project / "dvc.lock")["stages"]["train@good"]
    deps = {item["path"]: item["md5"] for item in entry["deps"]}
    outs = {item["path"]: item["md5"] for item in entry["outs"]}
    key = run_key([entry["cmd"]], deps, entry["params"])

    found = rows(
        project, "SELECT run_uuid, name, status, artifact_uri FROM runs ORDER BY start_time"
    )
    assert [row[1:3] for row in found] == [("train@good", "FINISHED"), ("train@also", "FINISHED")]
    run_id, artifacts = found[0][0], Path(found[0][3].removeprefix("file://"))
    assert artifacts.is_relative_to(project / "mlartifacts")
    tags = dict(rows(project, f"SELECT key, value FROM tags WHERE run_uuid = '{run_id}'"))
    assert tags["dvc.stage"] == "train@good"
    assert tags["dvc.run_key"] == key
    assert json.loads(tags["dvc.deps"]) == deps
    assert json.loads(tags["dvc.outs"]) == outs
    assert tags["dvc.engine"] == "dvc"
    assert tags["slurm.job"] == "17"
    assert tags["pistole.version"]
    assert len(tags["env.lock_sha256"]) == 64
    params = dict(rows(project, f"SELECT key, value FROM params WHERE run_uuid = '{run_id}'"))
    assert params == {
        "seed": "0",
        "lr": "0.0001",
        "attack.eps": "2/255",
        "attack.steps": "[1, 2]",
        "nothing": "null",
    }
    metrics = rows(
        project, f"SELECT key, step, value FROM metrics WHERE run_uuid = '{run_id}' ORDER BY 1, 2"
    )
    assert metrics == [("accuracy", 0, 0.5), ("loss", 0, 1), ("loss", 1, 0.5), ("loss", 2, 1 / 3)]
    assert dict(rows(project, "SELECT name, digest FROM datasets")) == deps
    assert (artifacts / "figures/curve.png").read_bytes() == b"png"
    table = json.loads((artifacts / "tables/tasks.json").read_text())
    assert table["columns"] == ["task", "clean", "n"]
    assert table["data"] == [["a", 0.5, None], ["b", None, 2]]
    lineage = json.loads((artifacts / "lineage.json").read_text())
    receipt = json.loads((project / ".pistole/receipts/train@good.json").read_text())
    assert receipt == lineage | {"run_id": run_id, "seconds": receipt["seconds"]}
    assert (receipt["run_key"], receipt["outs"]) == (key, outs)
    assert receipt["params"] == entry["params"]


def test_a_failing_stage_leaves_a_failed_run_and_no_receipt(project):
    receipt = project / ".pistole/receipts/train@bad.json"
    receipt.parent.mkdir(parents=True)
    receipt.write_text("{}")
    code, output = repro("train@bad")
    assert code != 0
    assert "the weights" in output
    assert rows(project, "SELECT name, status FROM runs") == [("train@bad", "FAILED")]
    error = rows(project, "SELECT value FROM tags WHERE key = 'error'")
    assert error == [("ValueError: the weights are NaN",)]
    assert not receipt.exists()


def test_by_hand_nothing_is_tracked_nor_imported(tmp_path, clean_env):
    clean_env.chdir(tmp_path)
    before = "mlflow" in sys.modules
    with stage_run("merge@pistole") as run:
        run.metric("loss", 1.0)
    assert list(tmp_path.iterdir()) == []
    assert ("mlflow" in sys.modules) == before


@pytest.fixture
def written(clean_env, project):
    """What would be written to the store, for stages inside this process."""
    calls = []
    clean_env.setattr(store, "write_run", lambda *arguments: calls.append(arguments) or "id")
    return calls


def test_by_hand_with_a_store_the_hint_is_the_name(written, clean_env):
    clean_env.setenv("MLFLOW_TRACKING_URI", "http://example.org")
    with stage_run("merge@pistole") as run:
        run.metric("loss", 1.0, 4)
    ((uri, logged, record, tags, status),) = written
    assert (uri, logged.metrics[0][:3], status) == (
        "http://example.org",
        ("loss", 1.0, 4),
        "FINISHED",
    )
    assert tags["dvc.stage"] == record["stage"] == "merge@pistole"
    assert tags["dvc.engine"] == "hand"
    assert "run_key" not in record
    assert not tracking.RECEIPTS.exists()


def test_a_frozen_dag_is_used_instead_of_dvc(written, clean_env, project):
    stage = {"name": "a", "cmd": ["x"], "deps": ["data"], "params": {}, "outs": [{"path": "out"}]}
    (project / "dag.json").write_text(json.dumps([stage]))
    clean_env.setenv("PISTOLE_DAG", str(project / "dag.json"))
    clean_env.setenv("PISTOLE_ENGINE", "snakemake")
    clean_env.setenv("DVC_STAGE", "a")
    with stage_run("hint"):
        Path("out").write_text("o")
    ((_, _, record, tags, _),) = written
    assert record["outs"].keys() == {"out"}
    assert tags["dvc.engine"] == "snakemake"
    receipt = json.loads((project / ".pistole/receipts/a.json").read_text())
    assert (receipt["run_id"], receipt["run_key"]) == ("id", record["run_key"])


@pytest.mark.parametrize("broken", ["store", "stage"])
def test_a_record_that_cannot_be_written_costs_one_line(clean_env, project, capsys, broken):
    def fail(*_):
        raise RuntimeError("database\nis down")

    stage = {"name": "a", "cmd": ["x"], "deps": [], "params": {}, "outs": []}
    (project / "dag.json").write_text(json.dumps([stage]))
    clean_env.setenv("PISTOLE_DAG", str(project / "dag.json"))
    clean_env.setenv("DVC_STAGE", "a" if broken == "store" else "b")
    clean_env.setattr(store, "write_run", fail)
    with stage_run("hint") as run:
        run.metric("loss", 1.0)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("warning: this stage is not fully tracked: ")
    assert (project / ".pistole/receipts/a.json").exists() == (broken == "store")
    clean_env.setenv("PISTOLE_TRACKING", "strict")
    with pytest.raises((RuntimeError, UserError), match="database|no stage b"), stage_run("hint"):
        pass


def test_a_failing_stage_keeps_its_own_error_when_the_store_is_down(clean_env, project):
    clean_env.setenv("MLFLOW_TRACKING_URI", "http://example.org")
    clean_env.setenv("PISTOLE_TRACKING", "strict")
    clean_env.setattr(store, "write_run", lambda *_: 1 / 0)
    with pytest.raises(ValueError, match="mine"), stage_run("hint"):
        raise ValueError("mine")


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "/tmp/mlruns"])
def test_the_file_store_is_refused_before_any_work(clean_env, uri):
    clean_env.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match="is a folder of files"), stage_run("hint"):
        pytest.fail("the stage must not start")


def test_the_default_store_is_a_database_in_the_project(clean_env, tmp_path):
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path.resolve()}/mlflow.db"


def test_git_state_ignores_dvc_lock_and_untracked_files(clean_env, project):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)

    git("init")
    Path("dvc.lock").write_text("a")
    git("add", "dvc.lock", "stage.py")
    git("commit", "-m", "first")
    Path("dvc.lock").write_text("b")
    tags = tracking._circumstances(project, "a")
    assert (len(tags["git.commit"]), tags["git.dirty"]) == (40, "false")
    Path("stage.py").write_text("changed")
    assert tracking._circumstances(project, "a")["git.dirty"] == "true"


def test_long_values_become_digests_and_nested_params_leaves():
    assert store.fit("x" * 5000) == "x" * 5000
    assert store.fit("x" * 5001).startswith("sha256:")
    assert store.flatten({"a": {"b": [1], "c": None}, "d": "t"}) == {
        "a.b": "[1]",
        "a.c": "null",
        "d": "t",
    }
