"""A finished report of synthetic results."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_artifacts import make_params, write_artifacts
from report_theory_records import DRAWN

from pistole.report import figures
from pistole.stages import report


@pytest.fixture(scope="session")
def figures_of_the_records() -> Iterator[None]:
    """Draw only what the synthetic records are enough for; a page needs no figure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "CHECKS", {name: figures.CHECKS[name] for name in DRAWN})
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, figures_of_the_records: None) -> Path:
    """A folder with results of all earlier stages and a report; tests only read it."""
    folder = tmp_path_factory.mktemp("finished")
    write_artifacts(folder / "artifacts")
    report.run(make_params(), folder / "artifacts", folder / "report")
    return folder


@pytest.fixture
def written(finished: Path) -> Path:
    """The folder of a written report, to read."""
    return finished / "report"


@pytest.fixture
def artifacts(finished: Path, tmp_path: Path) -> Path:
    """Results of all earlier stages, to change."""
    return Path(shutil.copytree(finished / "artifacts", tmp_path / "artifacts"))
