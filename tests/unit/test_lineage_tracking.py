"""One run and one receipt per stage: with the real DVC and a real MLflow database."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pistole.errors import UserError
from pistole.lineage import receipts, tracking
from pistole.lineage.hashing import hash_paths, run_key
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
DVC_YAML = """
stages:
  train:
    foreach: [good, bad]
    do:
      cmd: PYTHON stage.py ${item}
      deps: [stage.py, data]
      params: [seed, lr, attack, nothing]
      outs: ["out/${item}"]
"""
PARAMS = "seed: 0\nlr: 1.0e-4\nattack: {eps: 2/255, steps: [1, 2]}\nnothing: null\nother: 1\n"
OURS = ("DVC_", "MLFLOW_", "PISTOLE_", "SLURM_")


def make_project(folder):
    from dvc.repo import Repo

    Repo.init(str(folder), no_scm=True).close()
    files = {
        "stage.py": STAGE,
        "dvc.yaml": DVC_YAML.replace("PYTHON", sys.executable),
        "params.yaml": PARAMS,
        "data/x.txt": "x",
        "envs/runtime.txt": "torch==2\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def clean_env(monkeypatch):
    for name in [name for name in os.environ if name.startswith(OURS)]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def project(tmp_path, clean_env):
    clean_env.chdir(make_project(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def repro(tmp_path_factory):
    """A project after one ``dvc repro`` of a good and a bad stage, and what it printed.

    The two stages cost two imports of mlflow, so all tests of its content share them.
    """
    folder = make_project(tmp_path_factory.mktemp("repro"))
    env = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    command = [sys.executable, "-m", "dvc", "repro", "--keep-going", "train@good", "train@bad"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=env | {"SLURM_JOB_ID": "17"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return folder, done.stdout


def rows(project, query):
    """Ask the database itself: importing mlflow here would cost seconds more."""
    database = sqlite3.connect(project / "mlflow.db")
    try:
        return database.execute(query).fetchall()
    finally:
        database.close()


def run_of(project, stage):
    """Return id, status, artifacts' folder, and the tables of one run."""
    ((run, status, place),) = rows(
        project, f"SELECT run_uuid, status, artifact_uri FROM runs WHERE name = '{stage}'"
    )
    tables = {
        table: dict(rows(project, f"SELECT key, value FROM {table} WHERE run_uuid = '{run}'"))
        for table in ("tags", "params")
    }
    return run, status, Path(place.removeprefix("file://")), tables


def test_a_run_under_dvc_agrees_with_dvc_lock(repro):
    project, output = repro
    entry = YAML(typ="safe", pure=True).load(project / "dvc.lock")["stages"]["train@good"]
    deps = {item["path"]: item["md5"] for item in entry["deps"]}
    outs = {item["path"]: item["md5"] for item in entry["outs"]}
    run, status, _, tables = run_of(project, "train@good")
    tags = tables["tags"]
    assert status == "FINISHED", output
    assert tags["dvc.stage"] == "train@good"
    assert tags["dvc.run_key"] == run_key([entry["cmd"]], deps, entry["params"])
    assert json.loads(tags["dvc.deps"]) == deps
    assert json.loads(tags["dvc.outs"]) == outs
    assert (tags["dvc.engine"], tags["slurm.job"]) == ("dvc", "17")
    assert tags["pistole.version"]
    assert len(tags["env.lock_sha256"]) == 64
    assert tables["params"] == {
        "seed": "0",
        "lr": "0.0001",
        "attack.eps": "2/255",
        "attack.steps": "[1, 2]",
        "nothing": "null",
    }
    assert dict(rows(project, "SELECT name, digest FROM datasets")) == deps
    receipt = receipts.find(project, "train@good", tags["dvc.run_key"])
    assert (receipt["run_id"], receipt["id"]) == (run, tags["pistole.receipt"])
    assert receipt["id"] == receipts.identity(receipt)
    assert (receipt["deps"], receipt["outs"]) == (deps, outs)
    assert receipt["params"] == entry["params"]
    assert run not in (project / "dvc.lock").read_text()


def test_metrics_over_steps_figures_and_tables_are_kept(repro):
    project, output = repro
    run, _, artifacts, _ = run_of(project, "train@good")
    metrics = rows(
        project, f"SELECT key, step, value FROM metrics WHERE run_uuid = '{run}' ORDER BY 1, 2"
    )
    assert metrics == [("accuracy", 0, 0.5), ("loss", 0, 1), ("loss", 1, 0.5), ("loss", 2, 1 / 3)]
    assert artifacts.is_relative_to(project / "mlartifacts")
    assert (artifacts / "figures/curve.png").read_bytes() == b"png"
    assert json.loads((artifacts / "tables/tasks.json").read_text()) == {
        "columns": ["task", "clean", "n"],
        "data": [["a", 0.5, None], ["b", None, 2]],
    }
    receipt = receipts.latest(project, "train@good")
    assert json.loads((artifacts / "lineage.json").read_text()) | {"run_id": run} == receipt
    measured = receipts.measured(project, receipt)
    assert [row[:3] for row in measured["metrics"]] == [
        ["loss", 1, 0],
        ["loss", 0.5, 1],
        ["loss", 1 / 3, 2],
        ["accuracy", 0.5, 0],
    ]
    assert [row[:2] for row in measured["files"]] == [["out/good/curve.png", "figures"]]
    assert not re.search(r"alembic|INFO|Warning|not fully tracked", output), output


def test_a_failing_stage_leaves_a_failed_run_and_no_receipt(repro):
    project, output = repro
    _, status, _, tables = run_of(project, "train@bad")
    assert status == "FAILED", output
    assert tables["tags"]["error"] == "ValueError: the weights are NaN"
    assert "dvc.run_key" in tables["tags"]
    assert receipts.latest(project, "train@bad") is None


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
    write_by(clean_env, lambda *arguments: calls.append(arguments) or "id")
    return calls


def write_by(monkeypatch, function):
    """Replace the process that writes to the store."""

    class Instead:
        def __init__(self, uri):
            self.uri = uri

        def write(self, *arguments):
            return function(self.uri, *arguments)

        def close(self):
            pass

    monkeypatch.setattr(tracking, "Writer", Instead)


def test_by_hand_with_a_store_the_hint_is_the_name(written, clean_env, project):
    clean_env.setenv("MLFLOW_TRACKING_URI", "http://example.org")
    with stage_run("merge@pistole") as run:
        run.metric("loss", 1.0, 4)
    ((uri, logged, record, tags, status),) = written
    assert (uri, status) == ("http://example.org", "FINISHED")
    assert logged.metrics[0][:3] == ("loss", 1.0, 4)
    assert (record["stage"], record["engine"], tags) == ("merge@pistole", "hand", {})
    assert "run_key" not in record
    assert not (project / receipts.FOLDER).exists()


def test_a_frozen_dag_is_used_instead_of_dvc(written, clean_env, project):
    stage = {"name": "a", "cmd": ["x"], "deps": ["data"], "params": {}, "outs": [{"path": "out"}]}
    (project / "dag.json").write_text(json.dumps([stage]))
    clean_env.setenv("PISTOLE_DAG", str(project / "dag.json"))
    clean_env.setenv("PISTOLE_ENGINE", "snakemake")
    clean_env.setenv("DVC_STAGE", "../dvc.yaml:a")
    with stage_run("hint"):
        Path("out").write_text("o")
    ((_, _, record, _, _),) = written
    assert record["outs"].keys() == {"out"}
    assert record["engine"] == "snakemake"
    receipt = receipts.find(project, "a", record["run_key"])
    assert receipt == {**record, "run_id": "id"}


@pytest.mark.parametrize("broken", ["store", "stage"])
def test_a_record_that_cannot_be_written_costs_one_line(clean_env, project, capsys, broken):
    def fail(*_):
        raise RuntimeError("database\nis down")

    stage = {"name": "a", "cmd": ["x"], "deps": [], "params": {}, "outs": []}
    (project / "dag.json").write_text(json.dumps([stage]))
    clean_env.setenv("PISTOLE_DAG", str(project / "dag.json"))
    clean_env.setenv("DVC_STAGE", "a" if broken == "store" else "b")
    write_by(clean_env, fail)
    with stage_run("hint") as run:
        run.metric("loss", 1.0)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("warning: this stage is not fully tracked: ")
    receipt = receipts.latest(project, "a")
    assert (receipt is not None) == (broken == "store")
    assert receipt is None or receipt["run_id"] is None
    clean_env.setenv("PISTOLE_TRACKING", "strict")
    with pytest.raises((RuntimeError, UserError), match=r"database|no stage b"), stage_run("hint"):
        pass


def test_a_failing_stage_keeps_its_own_error_when_the_store_is_down(clean_env, project):
    clean_env.setenv("MLFLOW_TRACKING_URI", "http://example.org")
    clean_env.setenv("PISTOLE_TRACKING", "strict")
    write_by(clean_env, lambda *_: 1 / 0)
    with pytest.raises(ValueError, match="mine"), stage_run("hint"):
        raise ValueError("mine")


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns", "/tmp/mlruns"])
def test_the_file_store_is_refused_before_any_work(clean_env, uri):
    clean_env.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match="is a folder of files"), stage_run("hint"):
        pytest.fail("the stage must not start")


def test_the_default_store_is_a_database_in_the_project(clean_env, tmp_path):
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path.resolve()}/mlflow.db"


def test_with_receipts_alone_no_store_is_opened(clean_env, project):
    write_by(clean_env, lambda *_: pytest.fail("nothing must be written"))
    clean_env.setattr(tracking, "Writer", lambda uri: pytest.fail(f"{uri} must not be opened"))
    stage = {"name": "a", "cmd": ["x"], "deps": [], "params": {}, "outs": []}
    (project / "dag.json").write_text(json.dumps([stage]))
    clean_env.setenv("PISTOLE_DAG", str(project / "dag.json"))
    clean_env.setenv("DVC_STAGE", "a")
    clean_env.setenv("PISTOLE_TRACKING", "receipts")
    with stage_run("hint") as run:
        run.metric("loss", float("nan"))
    receipt = receipts.latest(project, "a")
    assert receipt["run_id"] is None
    assert receipts.measured(project, receipt)["metrics"][0][:2] == ["loss", "nan"]


def test_a_stage_that_starts_again_has_no_receipt_until_it_ends(clean_env, project, written):
    stage = {"name": "a", "cmd": ["x"], "deps": ["data"], "params": {}, "outs": []}
    (project / "dag.json").write_text(json.dumps([stage]))
    clean_env.setenv("PISTOLE_DAG", str(project / "dag.json"))
    clean_env.setenv("DVC_STAGE", "a")
    with stage_run("hint"):
        pass
    assert receipts.latest(project, "a")
    with pytest.raises(ValueError, match="mine"), stage_run("hint"):
        raise ValueError("mine")
    assert receipts.latest(project, "a") is None
    with stage_run("hint"):
        pass
    (project / "data/x.txt").write_text("another input")
    with stage_run("hint"):
        pass
    assert len(list(receipts.every(project))) == 2
    assert receipts.latest(project, "a")["deps"] == hash_paths(project, ["data"])
