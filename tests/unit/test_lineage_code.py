"""Which commit a stage ran, and which code differed from it."""

import subprocess
from pathlib import Path

import pytest

from pistole.lineage import code


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("stage.py", "params.yaml"):
        Path(name).write_text(name)
    return tmp_path


def test_git_state_ignores_what_a_run_writes_and_untracked_files(project):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)

    git("init")
    lock = """schema: '2.0'
stages:
  a:
    cmd: x
    deps:
    - path: stage.py
      md5: '1'
    outs:
    - path: table.json
      md5: '2'
"""
    Path("dvc.lock").write_text(lock)
    Path("table.json").write_text("a")
    git("add", "dvc.lock", "stage.py", "table.json", "params.yaml")
    git("commit", "-m", "first")
    Path("dvc.lock").write_text(f"{lock}\n")
    Path("table.json").write_text("b")
    Path("params.yaml").write_text("b: 1")
    assert len(code.state(project)["commit"]) == 40
    assert code.state(project)["changed"] == []
    Path("stage.py").write_text("changed")
    assert code.state(project)["changed"] == ["stage.py"]


def test_without_git_the_commit_is_unknown(project):
    assert code.state(project) == {"commit": None, "changed": []}
