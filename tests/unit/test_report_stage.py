"""The stage ``report`` on synthetic results, and ``show`` on what it wrote."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from report_artifacts import TASKS, make_params, write_artifacts, write_csv, write_json

from pistole.errors import UserError
from pistole.stages import report, show

VOID = {"meta", "br"}


class Structure(HTMLParser):
    """Collects ids and what would be fetched, and checks that tags are closed."""

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        """Note a tag."""
        if tag not in VOID:
            self.open.append(tag)
        self.handle_startendtag(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        """Note ids and links."""
        self.ids += [value for key, value in attrs if key == "id"]
        self.links += [value for key, value in attrs if key in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost tag."""
        assert self.open.pop() == tag


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """Results of all earlier stages."""
    return write_artifacts(tmp_path / "artifacts")


@pytest.fixture
def written(artifacts: Path) -> Path:
    """The folder of a written report."""
    report.run(make_params(), artifacts, artifacts.parent / "report")
    return artifacts.parent / "report"


def test_metrics_have_the_documented_schema(artifacts: Path, written: Path) -> None:
    metrics = json.loads((written / "metrics.json").read_text())
    keys = {"profile", "models", "frontier", "theory", "select", "differences"}
    assert set(metrics) == keys
    assert metrics["profile"] == "demo"
    for name, model in metrics["models"].items():
        stored = json.loads((artifacts / "evaluation" / name / "summary.json").read_text())
        for kind in ("clean", "robust"):
            assert model[kind] == {t: stored["tasks"][t][kind] for t in TASKS}
            assert model[f"{kind}_mean"] == pytest.approx(np.mean(list(model[kind].values())))
            assert set(model["ci95"][kind]) == set(TASKS)
        assert model["sum"] == pytest.approx(model["clean_mean"] + model["robust_mean"])
        assert model["n"] == dict.fromkeys(TASKS, 40)
        assert model["digest"] == stored["digest"]
        assert model.get("lambda") == stored["lineage"].get("lambda")
        for key in ("clean_mean", "robust_mean", "sum"):
            low, high = model["ci95"][key]
            assert low < model[key] < high
    assert metrics["frontier"]["vanilla"][0] == {
        "lambda": 0.0,
        "clean_mean": 0.74,
        "robust_mean": 0.47,
    }
    assert metrics["theory"]["pci_trace"]["spearman"] == 0.93
    assert metrics["select"]["lambda"]["pistole"] == 0.5
    assert set(metrics["differences"]) == set(metrics["models"]) - {"pistole"}
    own, other = metrics["models"]["pistole"], metrics["models"]["vanilla"]
    assert metrics["differences"]["vanilla"]["sum"]["value"] == pytest.approx(
        own["sum"] - other["sum"]
    )


def test_stage_returns_numbers_for_the_tracker(artifacts: Path, written: Path) -> None:
    flat = report.run(make_params(), artifacts, written)
    metrics = json.loads((written / "metrics.json").read_text())
    assert flat["sum/pistole"] == metrics["models"]["pistole"]["sum"]
    assert flat["pistole_minus/base"] == metrics["differences"]["base"]["sum"]["value"]
    assert all(isinstance(value, float) for value in flat.values())


def test_two_runs_write_equal_bytes(artifacts: Path, written: Path, tmp_path: Path) -> None:
    again = tmp_path / "elsewhere" / "report"
    report.run(make_params(), artifacts, again)
    files = sorted(p.relative_to(written) for p in written.rglob("*") if p.is_file())
    assert [str(p) for p in files] == [
        "figures/frontier.svg",
        "figures/interference.svg",
        "figures/pci_trace.svg",
        "figures/training.svg",
        "index.html",
        "metrics.json",
        "table.csv",
    ]
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    for path in files:
        assert (written / path).read_bytes() == (again / path).read_bytes(), path


def test_other_files_of_the_folder_stay(artifacts: Path, written: Path) -> None:
    (written / "mine.txt").write_text("kept")
    (written / "figures" / "old.svg").write_text("stale")
    report.run(make_params(), artifacts, written)
    assert (written / "mine.txt").read_text() == "kept"
    assert not (written / "figures" / "old.svg").exists()


def test_page_is_self_contained_and_well_formed(written: Path) -> None:
    text = (written / "index.html").read_text()
    page = Structure()
    page.feed(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert [link for link in page.links if not link.startswith("#")] == []
    used = re.findall(r"url\(#([^)]+)\)", text) + [link[1:] for link in page.links]
    assert set(used) <= set(page.ids)
    assert "<script" not in text
    assert text.count("<svg") == 4


def test_figures_are_svg_without_date_and_with_text(written: Path) -> None:
    for path in (written / "figures").iterdir():
        text = path.read_text()
        ElementTree.fromstring(text)
        assert "dc:date" not in text
        assert "matplotlib v" not in text.lower()
    frontier = (written / "figures" / "frontier.svg").read_text()
    for word in ("PISTOLE", "Vanilla", "WiSE-FT", "Base", "λ = 0", "λ = 1"):
        assert f">{word}</text>" in frontier


def test_page_tells_what_it_must(written: Path) -> None:
    text = (written / "index.html").read_text()
    for word in (
        "APGD-CE runs 30 iterations instead of 100",
        "APGD-T tries 5 target classes instead of 9",
        "digit: 4 classes: 3 targets",
        "natural / gism (0.36)",
        "Remedy: more images in slices.score",
        '<span class="verdict holds">holds</span>',
        '<span class="verdict undecided">undecided</span>',
        "merge PISTOLE, λ = 0.5, scores pistole, no rescaling",
        f'<code title="{"2" * 64}">222222222222</code>',
        f'<code title="{"c" * 64}">cccccccccccc</code>',
        "<code>stability.kappa</code></span><span>2",
        "<code>attack.eps</code></span><span>4/255</span>",
        "<code>merge.lambda</code></span><span>selected</span>",
    ):
        assert word in text, word
    assert "natural / pistole (" not in text


def test_headline_compares_with_the_paired_interval(written: Path) -> None:
    text = (written / "index.html").read_text()
    metrics = json.loads((written / "metrics.json").read_text())
    lead = metrics["differences"]["vanilla"]["sum"]
    low, high = (f"{100 * end:+.1f}" for end in lead["ci95"])
    headline = re.search(r'class="headline">(.*?)</p>', text)[1]
    assert f"95% interval of the Sum {low} to {high}" in headline
    assert headline.startswith("PISTOLE beats vanilla merging")


def test_table_csv_has_a_row_per_model_with_its_identity(written: Path) -> None:
    with (written / "table.csv").open(newline="") as stream:
        rows = {row["model"]: row for row in csv.DictReader(stream)}
    metrics = json.loads((written / "metrics.json").read_text())
    assert list(rows) == ["base", "natural", "robust", "wise_ft", "vanilla", "pistole"]
    assert float(rows["pistole"]["sum"]) == metrics["models"]["pistole"]["sum"]
    assert float(rows["base"]["sum_low"]) == metrics["models"]["base"]["ci95"]["sum"][0]
    assert rows["base"]["lambda"] == ""
    assert rows["pistole"]["lambda"] == "0.5"
    assert rows["pistole"]["data_digest/digit"] == "d" * 64
    assert json.loads(rows["pistole"]["attack"])["apgd_ce"] == {"steps": 30, "restarts": 1}


def test_own_checkpoints_need_no_curve(artifacts: Path, tmp_path: Path) -> None:
    for source in ("natural", "robust"):
        (artifacts / "checkpoints" / source / "curve.csv").write_text("step,loss,lr\n")
    report.run(make_params(), artifacts, tmp_path / "out")
    assert not (tmp_path / "out" / "figures" / "training.svg").exists()


def test_fewer_models_make_a_smaller_table(artifacts: Path, tmp_path: Path) -> None:
    models = {"base": "artifacts/base", "vanilla": "artifacts/merged/vanilla"}
    report.run(make_params(models=models), artifacts, tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(metrics["models"]) == {"base", "vanilla"}
    assert metrics["differences"] == {}


def test_gaps_in_the_theory_tables_are_drawn_as_gaps(artifacts: Path, tmp_path: Path) -> None:
    table = artifacts / "theory" / "interference" / "table.csv"
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    rows[-1] |= {"envelope_ratio": "0.0", "rho_w": "nan", "selectivity_permuted": ""}
    write_csv(table, rows)
    summary = artifacts / "theory" / "pci_trace" / "summary.json"
    told = json.loads(summary.read_text())
    told["by_eta"][0]["spearman"] = None
    write_json(summary, told)
    report.run(make_params(), artifacts, tmp_path / "out")
    ElementTree.parse(tmp_path / "out" / "figures" / "interference.svg")


def test_show_fits_80_columns(written: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(written.parent)
    show.run(Path("report"))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "Report: report/index.html"
    names = [line.split()[0] for line in lines[3:9]]
    assert names == ["Base", "Natural", "Robust", "WiSE-FT", "Vanilla", "PISTOLE"]
    assert all(line.isascii() for line in lines)
    assert len({len(line.rstrip()) for line in lines[2:9]}) == 1


def test_show_without_a_report_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.json does not exist"):
        show.run(tmp_path)
