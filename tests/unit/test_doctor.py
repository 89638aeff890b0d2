"""The doctor on a good project, and on each way in which one can be broken."""

import contextlib
import fcntl
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from pistole import doctor
from pistole.cli import app
from pistole.doctor import leftovers, needs, packages, store, tree
from pistole.doctor.finding import FAILED, OK, WARNING, Finding, lines
from pistole.plan import missing as plan_missing
from tests.e2e.lineage_project import git
from tests.e2e.micro import ROOT, write_micro

VERSION = "2.0.0"
DAG = [{"name": "params", "frozen": False}, {"name": "masks", "frozen": False}]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the checks read of a project; DVC would take seconds to read its DAG."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_STAGE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    write_micro(tmp_path / "params.yaml")
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs/runtime.txt").write_text(f"one=={VERSION} \\\n    --hash=sha256:0\n")
    monkeypatch.setattr(packages.metadata, "version", lambda name: VERSION)
    monkeypatch.setattr("pistole.plan.disk.load_under", lambda *_: DAG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def states(findings: Iterable[Finding]) -> dict[str, str]:
    return {finding.check: finding.state for finding in findings}


def only(findings: Iterable[Finding], state: str) -> Finding:
    (finding,) = [f for f in findings if f.state != OK]
    assert finding.state == state
    return finding


def test_a_good_project_is_fit_for_a_run(project, monkeypatch, capsys):
    git(project, "init", "-b", "main")
    git(project, "add", ".")
    git(project, "commit", "-m", "all")
    monkeypatch.setattr(tree.shutil, "which", lambda name: f"/bin/{name}")
    with pytest.raises(SystemExit) as ended:
        app(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (ended.value.code, told["ok"]) == (0, True), told
    assert {c["check"] for c in told["checks"]} == {
        *("project", "python", "packages", "device", "disk", "weights", "data"),
        *("locks", "git", "store"),
    }
    assert all(c["state"] == OK for c in told["checks"]), told


def test_a_broken_project_fails_and_names_the_remedy(project, monkeypatch, capsys):
    monkeypatch.setattr(packages.metadata, "version", lambda name: "1.9")
    monkeypatch.setattr(doctor, "CHECKS", {"packages": packages.check_packages})
    with pytest.raises(SystemExit) as ended:
        app(["doctor"])
    assert ended.value.code == 1
    told = capsys.readouterr().out
    assert "packages  other versions than envs/runtime.txt has: one 1.9 (locked: 2.0.0)" in told
    assert "remedy: make env" in told
    assert told.endswith("a run would not succeed: see the remedies\n")


def test_a_check_that_cannot_look_is_a_finding(project):
    (project / "params.yaml").write_text("seed: none\n")
    found = doctor.diagnose(project)
    assert not found.ok
    assert states(found.findings)["needs"] == FAILED


def test_a_package_that_is_absent(project, monkeypatch):
    def absent(name: str) -> str:
        raise packages.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(packages.metadata, "version", absent)
    assert only(packages.check_packages(project), FAILED).text == "not installed: one"


def test_builds_of_one_version_are_that_version(project, monkeypatch):
    monkeypatch.setattr(packages.metadata, "version", lambda name: f"{VERSION}+cpu")
    assert states(packages.check_packages(project)) == {"packages": OK}


def test_pins_for_other_platforms_and_pythons_do_not_count():
    lock = (
        "one==1.0 ; sys_platform == 'none' \\\n    --hash=sha256:0\n"
        "one==2.0 ; sys_platform != 'none'\n    # via x\n"
        "two==3.0\n"
    )
    assert packages.pinned(lock) == {"one": "2.0", "two": "3.0"}


def test_the_projects_own_lock_can_be_read():
    pins = packages.pinned((ROOT / "envs/runtime.txt").read_text())
    assert {"torch", "dvc", "mlflow", "typer"} <= set(pins)


def test_without_a_lock_versions_are_not_compared(tmp_path):
    assert only(packages.check_packages(tmp_path), WARNING).remedy


def test_an_old_python(monkeypatch, tmp_path):
    monkeypatch.setattr(packages.sys, "version_info", (3, 10, 9))
    assert "older than 3.11" in only(packages.check_python(tmp_path), FAILED).text


def test_a_full_disk(project, monkeypatch):
    full = (10**9, 10**9 - 10, 10)
    usage = type(shutil.disk_usage(project))
    monkeypatch.setattr(plan_missing.shutil, "disk_usage", lambda _: usage(*full))
    found = list(needs.check_needs(project))
    assert states(found) == {"device": OK, "disk": FAILED, "weights": OK, "data": OK}
    assert "make room" in only(found, FAILED).remedy


@pytest.mark.parametrize(
    ("changes", "check", "told"),
    [
        (
            {"data__layout": "wds", "data__root": "nowhere", "datasets": ["clutter"]},
            "data",
            "no folder of split train in nowhere for clutter",
        ),
        (
            {"finetune__robust__checkpoint": "mine.safetensors"},
            "weights",
            "finetune.robust.checkpoint: mine.safetensors does not exist",
        ),
        ({"device": "cuda"}, "device", "no CUDA device is visible here"),
    ],
)
def test_what_params_yaml_names_and_is_not_there(project, changes, check, told, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    write_micro(project / "params.yaml", **changes)
    found = [f for f in needs.check_needs(project) if f.state != OK]
    assert {f.check for f in found} == {check}
    assert all(f.state == FAILED and f.remedy for f in found)
    assert told in found[0].text


def test_weights_that_do_not_ship(project, monkeypatch, tmp_path):
    monkeypatch.setattr(plan_missing, "EMBEDDED", tmp_path)
    found = only(needs.check_needs(project), FAILED)
    assert (found.check, "pistole pretrain" in found.text) == ("weights", True)


def test_more_threads_than_cores(project, monkeypatch):
    monkeypatch.setattr(needs.os, "cpu_count", lambda: 2)
    write_micro(project / "params.yaml", threads=16)
    assert "threads is 16" in only(needs.check_needs(project), WARNING).text


def test_no_lock(project):
    (project / ".dvc/tmp/lock").touch()  # DVC leaves it there, free
    (project / ".dvc/tmp/rwlock").write_text('{"read": {}, "write": {}}')
    assert states(leftovers.check_locks(project)) == {"locks": OK}


def test_a_dvc_that_works_here(project):
    with (project / ".dvc/tmp/lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(" 4711\n")
        stream.flush()
        assert "process 4711" in only(leftovers.check_locks(project), WARNING).text


@pytest.fixture
def dead() -> int:
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


def test_a_path_that_a_killed_dvc_locked(project, dead):
    infos = {"read": {"/x": [{"pid": dead, "cmd": "dvc repro"}]}, "write": {}}
    (project / ".dvc/tmp/rwlock").write_text(json.dumps(infos))
    found = only(leftovers.check_locks(project), FAILED)
    assert f"process {dead} was killed" in found.text
    assert found.remedy == "rm .dvc/tmp/rwlock"


def test_a_broken_lock_of_dvc(project):
    (project / ".dvc/tmp/rwlock").write_text('{"read": ')
    assert "is broken" in only(leftovers.check_locks(project), FAILED).text


def test_what_a_killed_snakemake_leaves(project):
    (project / ".snakemake/locks").mkdir(parents=True)
    assert states(leftovers.check_locks(project)) == {"locks": OK}
    (project / ".snakemake/locks/0.output.lock").write_text("artifacts/base\n")
    assert only(leftovers.check_locks(project), FAILED).remedy == "snakemake --unlock"


@contextlib.contextmanager
def working(script: Path, folder: Path):
    """A process that runs a script in a folder."""
    script.write_text("import sys; print(flush=True); sys.stdin.read()")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-S", script], cwd=folder, **pipes) as process:
        process.stdout.readline()
        yield process


def test_a_snakemake_that_works_here(project, tmp_path):
    (project / ".snakemake/locks").mkdir(parents=True)
    (project / ".snakemake/locks/0.output.lock").write_text("artifacts/base\n")
    with working(tmp_path / "snakemake", project) as process:
        found = only(leftovers.check_locks(project), WARNING)
    assert f"(process {process.pid})" in found.text
    with working(tmp_path / "snakemake_report.py", project):  # whose name only begins so
        assert only(leftovers.check_locks(project), FAILED).remedy == "snakemake --unlock"


def test_git_says_what_differs(project):
    assert "no git repository" in only(tree.check_git(project), WARNING).text
    git(project, "init", "-b", "main")
    git(project, "add", "params.yaml", "dvc.yaml")
    git(project, "commit", "-m", "all")
    assert states(tree.check_git(project)) == {"git": OK}
    (project / "dvc.yaml").write_text("stages: {}\n")
    assert only(tree.check_git(project), WARNING).text.startswith("dvc.yaml differ from commit")


def test_a_folder_that_is_no_project(tmp_path, monkeypatch):
    monkeypatch.setattr(tree.shutil, "which", lambda name: None)
    found = list(tree.check_project(tmp_path))
    assert [f.state for f in found] == [FAILED, WARNING]
    assert found[0].text.endswith("has no dvc.yaml, params.yaml, .dvc")


def test_a_store_that_is_not_there_yet_and_one_that_is(project):
    assert "the first run makes it" in next(store.check_store(project)).text
    connection = sqlite3.connect(project / "mlflow.db")
    with connection:
        connection.execute("create table runs (id)")
        connection.execute("insert into runs values (1)")
    connection.close()
    assert next(store.check_store(project)) == Finding("store", OK, "mlflow.db: 1 runs")


def test_a_broken_store(project):
    (project / "mlflow.db").write_text("not a database, but long enough to be looked at" * 100)
    assert "pistole track" in only(store.check_store(project), FAILED).remedy


def test_a_server_that_does_not_answer(project, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "does not answer" in only(store.check_store(project), WARNING).text


def test_findings_as_text():
    told = lines([Finding("disk", FAILED, "full", "make room"), Finding("git", OK, "clean")])
    assert told[0] == "failed   disk      full"
    assert told[1].strip() == "remedy: make room"
    assert told[2] == "ok       git       clean"
