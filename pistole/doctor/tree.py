"""The project's folder: its DAG, its parameters, its repository."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from pistole.doctor.finding import FAILED, OK, WARNING, Finding
from pistole.lineage import code

PROGRAMS = ("git", "dvc", "make")
NAMED = 3


def check_project(project: Path) -> Iterator[Finding]:
    """Look for the files that make a project, and for the programs that run it.

    Args:
        project: folder of the DVC project.

    Yields:
        Findings.
    """
    absent = [name for name in ("dvc.yaml", "params.yaml", ".dvc") if not (project / name).exists()]
    if absent:
        text = f"{project.resolve()} has no {', '.join(absent)}"
        yield Finding("project", FAILED, text, "run in the project's folder, or give --project")
    else:
        yield Finding("project", OK, f"{project.resolve()}")
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking:
        text = f"not on the path: {', '.join(lacking)}"
        yield Finding("project", WARNING, text, "source .venv/bin/activate; install git and make")


def check_git(project: Path) -> Iterator[Finding]:
    """Say which commit runs and what differs from it.

    Args:
        project: folder of the DVC project.

    Yields:
        One finding.
    """
    state = code.state(project)
    if state["commit"] is None:
        text = "this is no git repository with a commit: receipts name no code"
        yield Finding("git", WARNING, text, "git init and commit, or dvc config core.no_scm true")
        return
    changed, short = state["changed"], state["commit"][:12]
    if not changed:
        yield Finding("git", OK, f"commit {short}, no code differs from it")
        return
    more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
    text = f"{', '.join(changed[:NAMED])}{more} differ from commit {short}"
    yield Finding("git", WARNING, text, "git commit: the audit refuses runs of a dirty tree")
