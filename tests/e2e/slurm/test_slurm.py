"""The slurm profiles on a real Slurm: sbatch, a killed job, and the rest of the run after it."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.micro import ROOT
from tests.e2e.slurm import cluster
from tests.e2e.small_dag import STAGES, call, environment, logs, make_project, ran, snakemake

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(3600)]
# Look at once: on a cluster one looks every ten seconds.
QUICK = ["--slurm-init-seconds-before-status-checks=1", "--seconds-between-status-checks=2"]
PATIENCE = 1200  # s until a job runs; an idle machine needs one minute


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    reason = cluster.obstacle()
    if reason:
        pytest.skip(reason)
    with cluster.running(tmp_path_factory.mktemp("slurm")):
        yield


def arguments(profile: str) -> list[str]:
    return ["--profile", str(ROOT / "workflow/profiles" / profile), *QUICK]


def wait_for_job(rule: str) -> str:
    """Return the id of a rule's job as soon as it runs."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        lines = cluster.ask("squeue", "--noheader", "--format=%i %T %k").splitlines()
        for job, state, *comment in map(str.split, lines):
            if state == "RUNNING" and f"rule_{rule}" in " ".join(comment):
                return job
        time.sleep(0.5)
    raise AssertionError(f"no job of {rule} ran in {PATIENCE} s")


def slurm_job(folder: Path, stage: str) -> str:
    (receipt,) = (folder / ".pistole/receipts" / stage).glob("*[0-9a-f].json")
    return json.loads(receipt.read_text())["slurm_job"]


@pytest.fixture(scope="module")
def killed(slurm, tmp_path_factory) -> tuple[Path, str]:
    """A project, and what Snakemake printed, after a run whose job train@b was cancelled."""
    folder = make_project(tmp_path_factory.mktemp("project"))
    (folder / "slow").mkdir()
    (folder / "slow/train@b").touch()
    snakefile = str(ROOT / "workflow/Snakefile")
    command = [sys.executable, "-m", "snakemake", "-s", snakefile, *arguments("slurm")]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            cluster.ask("scancel", wait_for_job("train_b"))
            output, _ = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert process.returncode != 0, output
    return folder, output


def test_a_killed_job_leaves_the_finished_stages_committed(killed):
    folder, output = killed
    finished = ["check", "data@a", "data@b", "train@a"]
    assert ran(folder) == finished, output + logs(folder)
    assert f"dvc.lock: {len(finished)} stages committed, 0 refused" in output, output
    jobs = {slurm_job(folder, stage) for stage in finished}
    assert len(jobs) == len(finished)
    assert all(job.isdigit() for job in jobs)


def test_the_next_run_does_only_the_rest(killed):
    folder, _ = killed
    (folder / "slow/train@b").unlink()
    status, output = snakemake(folder, *arguments("slurm-gres"))
    assert status == 0, output + logs(folder)
    assert ran(folder) == ["table", "train@b"]
    assert call(folder, "dvc", "status") == (0, "Data and pipelines are up to date.\n")
    lock = (folder / "dvc.lock").read_text()
    assert sorted(re.findall(r"(?m)^  (\S+):$", lock)) == STAGES
    # Each profile asked for the GPU in its own way.
    for stage, request in (("train@a", "TresPerJob"), ("train@b", "TresPerNode")):
        job = cluster.ask("scontrol", "show", "job", "--oneliner", slurm_job(folder, stage))
        assert re.search(rf"{request}=gres:gpu:1\b", job), job
