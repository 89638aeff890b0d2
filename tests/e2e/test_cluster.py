"""workflow/Snakefile against ``dvc repro``: the same stages, the same bytes, nothing else."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.micro import ROOT
from tests.e2e.small_dag import (
    STAGES,
    call,
    environment,
    logs,
    make_project,
    ran,
    repro,
    run_locally,
    snakemake,
    write_params,
)


def lock(folder: Path) -> bytes:
    return (folder / "dvc.lock").read_bytes()


def snapshot(folder: Path) -> dict[str, tuple]:
    """All files but Snakemake's own bookkeeping and DVC's caches of file times."""
    kept = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if not re.match(r"\.snakemake|\.dvc/tmp", name):
            stat = path.stat()
            kept[name] = (stat.st_ino, stat.st_size, stat.st_mtime_ns) if path.is_file() else ()
    return kept


@pytest.fixture(scope="module")
def by_dvc(tmp_path_factory) -> Path:
    """A project that ``dvc repro`` has run."""
    folder = make_project(tmp_path_factory.mktemp("dvc"))
    status, stages, output = repro(folder)
    assert (status, sorted(stages)) == (0, STAGES), output
    return folder


@pytest.fixture(scope="module")
def by_snakemake(tmp_path_factory) -> Path:
    """A project that Snakemake has run, after a dry run."""
    folder = make_project(tmp_path_factory.mktemp("snakemake"))
    before = snapshot(folder)
    status, output = run_locally(folder, "--dry-run")
    assert status == 0, output
    assert re.search(r"\ntotal +7\n", output), output
    assert snapshot(folder) == before
    status, output = run_locally(folder, PISTOLE_TRACKING="")
    assert status == 0, output + logs(folder)
    assert ran(folder) == STAGES
    assert "dvc.lock: 6 stages committed, 0 refused" in output
    assert "mlflow: 6 runs written, 0 were there" in output
    return folder


@pytest.fixture
def copy(by_snakemake, tmp_path) -> Path:
    """A copy of the project that Snakemake has run, to change."""
    return Path(shutil.copytree(by_snakemake, tmp_path / "copy"))


def test_after_snakemake_dvc_has_nothing_to_do_and_the_same_lock(by_snakemake, by_dvc):
    assert lock(by_snakemake) == lock(by_dvc)
    assert call(by_snakemake, "dvc", "status") == (0, "Data and pipelines are up to date.\n")
    status, stages, output = repro(by_snakemake)
    assert (status, stages) == (0, []), output
    assert lock(by_snakemake) == lock(by_dvc)


def test_after_dvc_snakemake_has_nothing_to_do(by_dvc):
    before = snapshot(by_dvc)
    status, output = run_locally(by_dvc, "--dry-run")
    assert status == 0, output
    assert "Nothing to be done" in output
    assert snapshot(by_dvc) == before
    status, output = run_locally(by_dvc, "--dry-run", "train_a")
    assert status == 0, output
    assert "Nothing to be done" in output


def test_every_rule_has_a_log_and_a_benchmark(by_snakemake):
    folder = by_snakemake / ".pistole/cluster"
    assert sorted(path.stem for path in (folder / "logs").iterdir()) == STAGES
    assert sorted(path.stem for path in (folder / "benchmarks").iterdir()) == STAGES


def test_a_changed_parameter_runs_the_same_stages_under_both(copy, by_dvc, tmp_path):
    other = Path(shutil.copytree(by_dvc, tmp_path / "other"))
    for folder in (copy, other):
        write_params(folder, train="2")
    status, stages, output = repro(other)
    assert status == 0, output
    status, output = run_locally(copy)
    assert status == 0, output + logs(copy)
    # What `check` writes is as before, so no data is made again.
    assert ran(copy) == sorted(stages) == ["check", "table", "train@a", "train@b"]
    assert "data@a did not change" in logs(copy)
    assert lock(copy) == lock(other) != lock(by_dvc)


def test_an_output_edited_during_the_run_is_refused_with_what_read_it(copy):
    old = lock(copy).decode()
    write_params(copy, train="3")
    (copy / "edit").mkdir()
    (copy / "edit/table").write_text("models/a.txt")
    status, output = run_locally(copy)
    assert status != 0
    assert "refused train@a: its output models/a.txt changed since it ran: " in output
    assert "refused table: it read what train@a wrote, which was refused: " in output
    assert "dvc.lock: 2 stages committed, 2 refused" in output
    new = lock(copy).decode()
    assert new != old
    for name, same in (("train@a", True), ("table", True), ("train@b", False)):
        assert (entry(new, name) == entry(old, name)) == same, name


def entry(text: str, name: str) -> str:
    return re.search(rf"(?ms)^  {name}:\n.*?(?=^  \S|\Z)", text).group()


def test_after_a_failure_what_finished_is_committed_and_the_rest_runs_next(copy):
    write_params(copy, train="4")
    (copy / "fail").mkdir()
    (copy / "fail/train@b").touch()
    status, output = run_locally(copy)
    assert status != 0
    assert "train@b was told to fail" in output
    assert "dvc.lock: 2 stages committed, 0 refused" in output
    assert ran(copy) == ["check", "train@a"]
    (copy / "fail/train@b").unlink()
    status, output = run_locally(copy)
    assert status == 0, output + logs(copy)
    assert ran(copy) == ["table", "train@b"]
    assert call(copy, "dvc", "status") == (0, "Data and pipelines are up to date.\n")


def test_the_report_has_figures_parameters_and_rules(by_snakemake, tmp_path):
    (by_snakemake / "report/figures").mkdir(exist_ok=True)
    (by_snakemake / "report/figures/frontier.svg").write_text("<svg/>")
    status, output = snakemake(by_snakemake, "--report", str(tmp_path / "page.html"))
    assert status == 0, output
    page = (tmp_path / "page.html").read_text()
    for name in ("frontier.svg", "table.csv", "params.yaml", "train_a"):
        assert name in page


def test_lint_has_no_complaint(by_dvc):
    status, output = snakemake(by_dvc, "--lint")
    assert status == 0, output
    assert "in a good condition" in output


def test_jobs_import_no_dvc_and_nothing_heavy():
    code = "import sys, pistole.lineage.frozen, pistole.lineage.job; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    heavy = {"dvc", "torch", "mlflow", "numpy", "rich", "typer", "pydantic"}
    assert not heavy & set(done.stdout.split())


def test_every_profile_is_one_that_snakemake_takes(by_dvc):
    profiles = sorted(path.name for path in (ROOT / "workflow/profiles").iterdir())
    assert profiles == ["local", "slurm", "slurm-gres"]
    for name in ("slurm", "slurm-gres"):
        profile = str(ROOT / "workflow/profiles" / name)
        status, output = snakemake(by_dvc, "--profile", profile, "--dry-run")
        assert status == 0, output
