"""One finished project of five stages for all tests of the lineage; each gets its own copy."""

import os
from pathlib import Path

import pytest

from pistole.lineage import audit as package
from pistole.lineage.runs import read_runs
from tests.e2e.lineage_project import copy, create, finish
from tests.e2e.micro import environment


class InProcess:
    """Reads runs without a process of its own: mlflow is imported here already."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def read(self, wanted: set[str]) -> list[dict]:
        try:
            return read_runs(self.uri, wanted)
        except FileNotFoundError as error:
            raise RuntimeError(str(error)) from None

    def close(self) -> None:
        """There is nothing to end."""


@pytest.fixture(scope="session")
def lineage_finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after ``dvc repro``, ``pistole track`` and a commit; tests only copy it."""
    return finish(create(tmp_path_factory.mktemp("lineage") / "project"))


@pytest.fixture
def project(lineage_finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished project to tamper with, as the working directory."""
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/project/mlflow.db")
    monkeypatch.setattr(package, "Reader", InProcess)
    folder = copy(lineage_finished, tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder
