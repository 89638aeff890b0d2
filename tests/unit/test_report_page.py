"""What page and terminal tell of synthetic results."""

import html
import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_artifacts import TASKS, make_params
from report_files import write_json

from pistole.errors import UserError
from pistole.report import figures
from pistole.report.rows import WHAT
from pistole.report.tables import ABLATION, CONTROLS, LABELS, TITLES
from pistole.stages import report, show

VOID = {"meta", "br", "img", "input"}


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

    @property
    def targets(self) -> list[str]:
        """What links of the page lead to."""
        return [link[1:] for link in self.links if link.startswith("#")]


pytestmark = pytest.mark.usefixtures("figures_of_the_records")


def test_page_is_self_contained_and_well_formed(written: Path) -> None:
    text = (written / "index.html").read_text()
    page = Structure()
    page.feed(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    fetched = [link for link in page.links if not link.startswith(("#", "data:image/png;base64,"))]
    assert fetched == []
    used = re.findall(r"url\(#([^)]+)\)", text) + page.targets
    assert set(used) <= set(page.ids)
    assert re.findall("<script[^>]*>", text) == ["<script>"]
    assert text.count('<svg role="img"') == len(figures.CHECKS) + 4


def test_page_tells_what_it_must(written: Path) -> None:
    text = (written / "index.html").read_text()
    for word in (
        "APGD-CE runs 30 iterations instead of 100",
        "APGD-T tries 5 target classes instead of 9",
        "digit: 4 classes: 3 targets",
        "natural / gism (0.36)",
        "Remedy: set stability.score_stat to rms",
        "<td>abs_mean</td>",
        "<td>51234</td>",
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


def test_page_has_every_row_and_every_verdict(written: Path) -> None:
    text = html.unescape((written / "index.html").read_text())
    metrics = json.loads((written / "metrics.json").read_text())
    table = text[text.index('<h2 id="controls">') : text.index('<h2 id="theory">')]
    for name in (*ABLATION, *CONTROLS, "permuted_mask"):
        assert f'<th scope="row">{LABELS[name]}</th>' in table
        assert f"<dt>{LABELS[name]}</dt><dd>{WHAT[name]}</dd>" in table
    said = [*metrics["controls"]["verdicts"], *metrics["ablation"]["steps"]]
    assert len(said) == 9 + 5
    for entry in [*said, metrics["controls"]["split"]]:
        assert entry["statement"].replace("lambda", "λ") in table
    assert metrics["caution"] in table
    for name, kind, task in itertools.product(metrics["models"], ("clean", "robust"), TASKS):
        value = metrics["models"][name][kind][task]
        cell = f'data-v="{value}" data-k="models.{name}.{kind}.{task}"'
        assert text.count(cell) == 1


def test_theory_verdicts_are_listed_and_lead_to_their_checks(written: Path) -> None:
    text = html.unescape((written / "index.html").read_text())
    metrics = json.loads((written / "metrics.json").read_text())
    for name in TITLES:
        verdict = metrics["theory"][name]["verdict"]
        link = f'<span class="verdict {verdict}">{verdict}</span> <a href="#theory-{name}">'
        assert link in text
        assert f'<h3 id="theory-{name}">' in text
        for key in ("claim", "measurement", "statement"):
            assert metrics["theory"][name].get(key, "") in text
    assert "In metrics.json only: by gamma." in text


def test_masks_are_told_pooled_and_by_layer(written: Path) -> None:
    text = (written / "index.html").read_text()
    masks = text[text.index("What the masks keep") : text.index("How it was measured")]
    pooled, layers = masks.split("<details>")
    row = re.search(r'<tr class="own"><th scope="row">PISTOLE</th>(.*?)</tr>', pooled)[1]
    numbers = [float(value) for value in re.findall(r">([\d.]+)</td>", row)]
    assert numbers == [0.61, 0.62, 0.64, 0.63, 0.64, 0.66]
    assert pooled.count("<tr") == 2 + 6
    assert ">all</th>" not in layers
    assert layers.count('<th scope="row">blocks.0.attn.in_proj_weight</th>') == 6


def test_old_records_of_scores_are_shown(artifacts: Path, tmp_path: Path) -> None:
    path = artifacts / "stability" / "natural" / "summary.json"
    old = json.loads(path.read_text())
    write_json(path, {key: old[key] for key in ("reliability", "pci_reliability")})
    report.run(make_params(), artifacts, tmp_path / "out")
    assert (tmp_path / "out" / "index.html").read_text().count("<td>not recorded</td>") == 2


def test_checks_that_were_not_run_are_named(artifacts: Path, tmp_path: Path) -> None:
    for name in TITLES:
        shutil.rmtree(artifacts / "theory" / name)
    report.run(make_params(), artifacts, tmp_path / "out")
    text = (tmp_path / "out" / "index.html").read_text()
    assert text.count('<span class="verdict">not run</span>') == len(TITLES)
    assert '<code class="command">pistole theory merge_path</code>' in text


def test_headline_compares_with_the_paired_interval(written: Path) -> None:
    text = (written / "index.html").read_text()
    metrics = json.loads((written / "metrics.json").read_text())
    lead = metrics["differences"]["vanilla"]["sum"]
    low, high = (f"{100 * end:+.1f}" for end in lead["ci95"])
    headline = re.search(r'class="headline">(.*?)</p>', text)[1]
    assert f"95% interval of the Sum {low} to {high}" in headline
    assert headline.startswith("PISTOLE beats vanilla merging")


def only(*names: str) -> dict[str, str]:
    """Rows of the table."""
    return {name: f"artifacts/{name}" for name in names}


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (("base", "vanilla"), []),
        (("vanilla", "pistole"), []),
        (("vanilla", "gism", "pistole"), ["Ablation"]),
        (("pistole", "uniform_shrink"), ["Controls"]),
        (("gism", "permuted_mask_1", "permuted_mask_2"), ["Ablation", "Controls"]),
    ],
)
def test_fewer_models_make_a_smaller_page(
    artifacts: Path, tmp_path: Path, capsys, names: tuple[str, ...], groups: list[str]
) -> None:
    report.run(make_params(models=only(*names)), artifacts, tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(metrics["models"]) == set(names)
    assert (metrics["differences"] == {}) == ("pistole" not in names)
    text = (tmp_path / "out" / "index.html").read_text()
    assert re.findall(r'<th scope="rowgroup">(\w+)</th>', text) == groups
    assert ("Ablation and controls" in text) == bool(groups)
    assert "Not among the evaluated models:" in text
    assert "<tbody>\n</tbody>" not in text
    assert "<ul>\n</ul>" not in text
    page = Structure()
    page.feed(text)
    assert page.open == []
    assert set(page.targets) <= set(page.ids)
    show.run(tmp_path / "out")
    printed = capsys.readouterr().out
    assert [name for name in ("Ablation", "Controls") if f"\n{name}, %" in printed] == groups
    assert "- Not evaluated: " in printed
    assert "comparisons" not in printed or "pistole" in names


def shown(written: Path, monkeypatch, capsys) -> list[str]:
    """The lines that ``show`` prints on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(written.parent)
    show.run(Path("report"))
    return capsys.readouterr().out.splitlines()


def test_show_fits_80_columns(written: Path, monkeypatch, capsys) -> None:
    lines = shown(written, monkeypatch, capsys)
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "Report: report/index.html"
    names = [line.split()[0] for line in lines[3:9]]
    assert names == ["Base", "Natural", "Robust", "WiSE-FT", "Vanilla", "PISTOLE"]
    assert all(line.isascii() for line in lines)
    assert len({len(line.rstrip()) for line in lines[2:9]}) == 1


def test_show_tells_controls_and_verdicts(written: Path, monkeypatch, capsys) -> None:
    lines = shown(written, monkeypatch, capsys)
    metrics = json.loads((written / "metrics.json").read_text())
    text = " ".join(" ".join(lines).split())
    for entry in metrics["controls"]["verdicts"]:
        assert entry["statement"] in text
    assert f"- {metrics['ablation']['statement']}" in text
    assert f"- {metrics['controls']['split']['statement']}" in text
    lead = metrics["controls"]["pooled"]["difference"]["sum"]
    (pooled,) = [line for line in lines if line.startswith("Permuted mask")]
    assert pooled.startswith("Permuted mask, mean")
    assert f"{100 * lead['value']:+.1f} [" in pooled
    assert "fails      Straightness of the frontiers" in lines
    assert sum(line.split()[0] in ("holds", "fails", "undecided") for line in lines if line) == 6


def test_show_without_a_report_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.json does not exist"):
        show.run(tmp_path)


def test_show_of_an_older_report_says_so(tmp_path: Path) -> None:
    write_json(tmp_path / "metrics.json", {"profile": "demo", "models": {}})
    with pytest.raises(UserError, match="older version: run stage report again"):
        show.run(tmp_path)


def test_attacks_that_did_not_run_are_named(artifacts: Path, written: Path, tmp_path: Path) -> None:
    told = (written / "index.html").read_text()
    assert "(the first two attacks of AutoAttack); FAB-T is left out; Square is left out," in told
    for summary in (artifacts / "evaluation").glob("*/summary.json"):
        record = json.loads(summary.read_text())
        record["attack"] |= {"fab_t": {"steps": 100}, "square": {"queries": 0}}
        write_json(summary, record)
    report.run(make_params(), artifacts, tmp_path / "out")
    told = (tmp_path / "out" / "index.html").read_text()
    assert "(the first two attacks of AutoAttack), then FAB-T; Square is left out, in" in told
