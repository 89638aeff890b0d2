"""Every stage after the other, as the DAG runs them, on a handful of images."""

import hashlib
import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from pistole.cli import app
from pistole.cli.layout import EXAMPLES
from pistole.stages.theory import CHECKS
from tests import pages
from tests.conftest import picture
from tests.e2e.following import follow, in_shell, lines_of
from tests.e2e.micro import MODELS, ROOT, environment, status, write_micro
from tests.e2e.recorded import clone, record

TASKS = ("clutter", "shape")
NEEDS = "artifacts/prepared/needs.json"
METHODS = tuple(name for name, place in MODELS.items() if place.startswith("merged/"))


def commands(params: Path) -> list[list[str]]:
    """The commands of dvc.yaml in an order that respects its edges."""
    del params
    return [
        ["params", "--check", "params.yaml", "--out", "artifacts/params.ok", "--needs", NEEDS],
        *(["data", "index", task] for task in TASKS),
        ["base"],
        *(
            [stage, source]
            for stage in ("finetune", "vectors", "stability")
            for source in ("natural", "robust")
        ),
        ["masks"],
        ["select"],
        *(["merge", method] for method in METHODS),
        *(
            f"evaluate {name} --model artifacts/{at} --metrics report/models/{name}.json".split()
            for name, at in MODELS.items()
        ),
        ["transfer"],
        *(["frontier", method] for method in ("wise_ft", "vanilla", "pistole")),
        *(["theory", check] for check in CHECKS),
        ["gallery"],
        ["report"],
    ]


def run_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir()
    (folder / "pistole").symlink_to(ROOT / "pistole")
    monkeypatch.chdir(folder)
    write_micro(folder / "params.yaml")
    for command in commands(folder / "params.yaml"):
        app(command, standalone_mode=False)
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = [
        p for place in ("artifacts", "report") for p in (folder / place).rglob("*") if p.is_file()
    ]
    return {str(p.relative_to(folder)): hashlib.md5(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield run_all(tmp_path_factory.mktemp("dag") / "first", monkeypatch)


def test_metrics_json_has_the_promised_form(finished: Path):
    metrics = json.loads((finished / "report/metrics.json").read_text())
    assert metrics["profile"] == "micro"
    assert set(metrics["models"]) == set(MODELS)
    for row in metrics["models"].values():
        assert set(row) >= {
            "clean",
            "robust",
            "clean_mean",
            "robust_mean",
            "sum",
            "ci95",
            "n",
            "digest",
        }
        assert set(row["clean"]) == set(TASKS)
        assert all(0 <= row["robust"][t] <= row["clean"][t] <= 1 for t in TASKS)
        assert row["sum"] == pytest.approx(row["clean_mean"] + row["robust_mean"])
        assert re.fullmatch("[0-9a-f]{64}", row["digest"])
    assert set(metrics["frontier"]) == {"wise_ft", "vanilla", "pistole"}
    assert set(metrics["theory"]) == set(CHECKS)


def test_report_is_one_page_with_the_figures(finished: Path):
    page = (finished / "report/index.html").read_text()
    assert "<svg" in page
    assert "http://" not in re.sub(r"http://www\.w3\.org[^\"']*|http://purl\.org[^\"']*", "", page)


def test_no_half_written_file_remains(finished: Path):
    assert not list(finished.rglob("*.part"))


def test_a_second_run_in_another_folder_gives_the_same_bytes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    second = run_all(tmp_path / "second", monkeypatch)
    assert digests(second) == digests(finished)


def test_the_table_is_shown(finished: Path, monkeypatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(finished)
    app(["show"], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "PISTOLE" in shown
    assert "report/index.html" in shown


def test_the_transfer_pool_never_raises_an_accuracy(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "pooled"
    shutil.copytree(finished, folder, copy_function=os.link, symlinks=True)
    monkeypatch.chdir(folder)
    (folder / "params.yaml").unlink()  # a link to that of the other run
    write_micro(folder / "params.yaml", attack__evaluate__transfer=True)
    for command in commands(folder / "params.yaml"):
        if command[0] in ("evaluate", "transfer", "report"):
            app(command, standalone_mode=False)
    before, after = (
        json.loads((place / "report/metrics.json").read_text()) for place in (finished, folder)
    )
    fell = 0
    for name, row in before["models"].items():
        pooled = after["models"][name]
        assert pooled["clean"] == row["clean"]
        for task in TASKS:
            lost = after["transfer"][name]["fell"][task]
            assert pooled["robust"][task] == pytest.approx(row["robust"][task] - lost / 16)
            fell += lost
        assert pooled["robust_mean"] <= row["robust_mean"]
        assert after["transfer"][name]["robust_mean_before"] == row["robust_mean"]
    assert fell == sum(sum(e["fooled_by"].values()) for e in after["transfer"].values())
    for name in MODELS:  # what the pool does not enter is the same to the byte
        place = Path("artifacts/evaluation") / name
        for file in ("summary.json", "outcomes.parquet"):
            assert (folder / place / file).read_bytes() == (finished / place / file).read_bytes()
    assert after["frontier"] == before["frontier"]
    assert "transfer" not in before
    assert "Transfer pool" in (folder / "report/index.html").read_text()


# The first reads as a cluster run has left it; what the last two leave is not what others need.
FIRST = ("commit", "audit", "trace", "diff", "crate", "statement make", "statement verify", "card")
LATE = ("prune", "profile use")
HALF_AN_HOUR = {"pretrain"}


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run with the files of a clone, and a dataset of one's own."""
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)
    folder = clone(finished, tmp_path / "clone")
    monkeypatch.chdir(folder)
    record(folder, last="report")
    for number, kind in enumerate(("auk", "auk", "jay", "jay")):
        file = folder / "my-data/birds/test" / kind / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number, 16, 16))
    templates = folder / "my-data/birds/zeroshot_classification_templates.txt"
    templates.write_text("a photo of a {c}.\n")
    return folder


@pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # of pygtrie, which DVC calls
def test_the_example_of_every_help_works(project: Path, capsys: pytest.CaptureFixture[str]):
    aside = {*FIRST, *LATE, *HALF_AN_HOUR}
    failed = []
    for name in [*FIRST, *(name for name in EXAMPLES if name not in aside), *LATE]:
        _, *arguments = shlex.split(EXAMPLES[name])
        code = status(*arguments)
        told = capsys.readouterr()
        failed += [f"{EXAMPLES[name]}\n{told.out}{told.err}"] if code else []
    assert not failed, "\n".join(failed)
    assert (project / "params.yaml").read_bytes() == (ROOT / "profiles/demo.yaml").read_bytes()


@pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # of pygtrie, which DVC calls
def test_the_tutorial_works(project: Path, capsys: pytest.CaptureFixture[str]):
    """Its own commands, as printed; what DVC's lines between them do has been done here by hand."""
    lines = pages.commands(ROOT / "docs/tutorial.md")
    assert ["audit"] in lines
    for words in [["commit"], ["track"], *lines]:
        code = status(*words)
        told = capsys.readouterr()
        assert code == 0, f"{words}\n{told.out}{told.err}"


@pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # of pygtrie, which DVC calls
def test_a_statement_is_made_and_verified_as_the_page_says(project: Path, capsys):
    assert status("commit") == 0
    follow("docs/audit.md", "## Statements, crates and cards")
    assert "merged.intoto.json: 2 files are as stated" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # of pygtrie, which DVC calls
def test_what_usage_says_of_a_run_and_its_change_works(project: Path, tmp_path: Path):
    page = pages.section(ROOT / "docs/usage.md", "## Run, change, run again")
    first, *lines = lines_of(pages.fenced(page)[0][1]).splitlines()
    assert first.split()[:2] == ["make", "repro"]  # this has been done
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i "s/bootstrap: 200/bootstrap: 210/" "$1"\n')
    editor.chmod(0o755)
    script = "\n".join(["pistole commit", "dvc commit --force --quiet", *lines])
    said = in_shell(script, project, tmp_path / "bin", EDITOR=str(editor))
    assert re.search(r"report\.bootstrap +200 +210", said)
    assert re.findall("Running stage '(.*)':", said) == ["params", "report"]
    assert re.search(r"pistole\.json +[\d.]+", said)
    assert (project / "dvc_plots/index.html").is_file()
