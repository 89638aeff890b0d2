"""Eight stages that log to one MLflow server at once: no run and no metric is lost."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pistole.lineage import frozen, receipts, runs, stale
from tests.e2e.server import servers
from tests.e2e.small_dag import call, environment, make_project

# A library of DVC's warns of its own next version.
pytestmark = [
    pytest.mark.server,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning"),
]
TASKS = "abcdefgh"
STEPS = 1200  # more than one request takes


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> Iterator[str]:
    reason = servers.obstacle()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("server")
    with servers.postgres() as database, servers.mlflow_server(database, folder) as address:
        yield address


def start_job(project: Path, stage: str, uri: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pistole.lineage.job", stage],
        cwd=project,
        env=environment(MLFLOW_TRACKING_URI=uri, NO_PROXY="127.0.0.1", PISTOLE_TRACKING="strict"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(job: subprocess.Popen) -> None:
    output, _ = job.communicate(timeout=servers.PATIENCE)
    assert job.returncode == 0, output


def test_eight_stages_at_once_lose_no_run_and_no_metric(uri, tmp_path, monkeypatch):
    project = make_project(tmp_path, tasks=", ".join(TASKS), steps=str(STEPS))
    frozen.start(project, stale.freeze(project))
    with start_job(project, "check", uri) as job:
        finish(job)
    names = [f"data@{task}" for task in TASKS]
    (project / "slow").mkdir()
    for name in names:
        (project / "slow" / name).touch()
    jobs = [start_job(project, name, uri) for name in names]
    try:
        servers.wait_for(lambda: all((project / f"slow/{name}.waits").exists() for name in names))
        for name in names:
            (project / "slow" / name).unlink()
        for job in jobs:
            finish(job)
    finally:
        for job in jobs:
            job.kill()
            job.communicate()
    left = {receipt["id"]: receipt for receipt in receipts.every(project)}
    assert sorted(receipt["stage"] for receipt in left.values()) == ["check", *names]
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    reader = runs.Reader(uri)
    try:
        shown = reader.read(left)
    finally:
        reader.close()
    assert {run["tags"]["pistole.receipt"] for run in shown} == set(left)
    assert len(shown) == len(left)
    expected = {(step, 1 / (step + 1)) for step in range(STEPS)}
    for run in shown:
        assert run["status"] == "FINISHED"
        assert left[run["tags"]["pistole.receipt"]]["run_id"] == run["run_id"]
        losses = {(step, value) for name, value, step, _ in run["metrics"] if name == "loss"}
        assert losses == expected
    variables = {"MLFLOW_TRACKING_URI": uri, "NO_PROXY": "127.0.0.1"}
    status, output = call(project, "pistole", "commit", "--track", **variables)
    assert status == 0, output
    assert "dvc.lock: 9 stages committed, 0 refused" in output
    assert "mlflow: 0 runs written, 9 were there" in output
