"""pistole trace and pistole diff on a project of five stages."""

import json
import re

import pytest

from pistole.errors import UserError
from pistole.lineage import drawing, lockfile, receipts
from pistole.lineage.diff import compare, text
from pistole.lineage.hashing import md5_path
from pistole.lineage.trace import trace
from tests.e2e.lineage_project import STAGES, git, repro
from tests.e2e.micro import status


def change_params(project, old, new):
    params = project / "params.yaml"
    assert old in params.read_text()
    params.write_text(params.read_text().replace(old, new))


def test_a_file_leads_to_all_its_sources(project):
    found = trace(project, "out/score.csv")
    assert found.first == ["score"]
    assert set(found.stages) == set(STAGES)
    lock = lockfile.read(project)
    for name, stage in found.stages.items():
        receipt = receipts.latest(project, name)
        assert {row["path"]: row["md5"] for row in stage["inputs"]} == lock[name]["deps"]
        for part in ("cmd", "params", "outs", "run_id", "host", "started", "seconds", "code"):
            assert stage[part] == receipt[part]
        assert stage["environment"] == receipt["environment"]
    rows = {row["path"]: row["from"] for row in found.stages["merge"]["inputs"]}
    assert rows == {"stage.py": [], "out/checkpoints": ["train@natural", "train@robust"]}
    rows = {row["path"]: row["from"] for row in found.stages["score"]["inputs"]}
    assert rows == {"stage.py": [], "out/merged": ["merge"], "out/data": ["data"]}
    assert found.stages["data"]["inputs"][0] == {
        "path": "raw",
        "md5": md5_path(project, "raw"),
        "from": [],
    }
    assert json.loads(json.dumps(found.plain()))["target"] == "out/score.csv"


@pytest.mark.parametrize(
    ("target", "first", "many"),
    [
        ("out/checkpoints/natural/weights.txt", ["train@natural"], 2),
        ("out/checkpoints", ["train@natural", "train@robust"], 3),
        ("./out/data/", ["data"], 1),
        ("raw", [], 0),
    ],
)
def test_files_in_and_around_outputs_and_sources(project, target, first, many):
    found = trace(project, target)
    assert (found.first, len(found.stages)) == (first, many)
    absolute = trace(project, str(project / target))
    assert absolute.stages == found.stages


def test_a_number_of_a_file_or_of_a_run(project):
    score = json.loads((project / "report/score.json").read_text())["models"]["merged"]["sum"]
    for target in ("models.merged.sum", "report/score.json:models.merged.sum", "score:sum"):
        found = trace(project, target)
        assert (found.number, found.first, set(found.stages)) == (score, ["score"], set(STAGES))
    loss = trace(project, "train@robust:loss")
    assert (loss.number, loss.notes) == (1 / 3, ["the last of 3 values"])
    assert set(loss.stages) == {"data", "train@robust"}


def test_a_number_that_a_report_collects_leads_to_who_measured_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    entries = {
        "base": ["base.bin", []],
        "merge@a.b": ["merged/a.b", ["base.bin"]],
        "evaluate@a.b": ["evaluation/a.b", ["merged/a.b"]],
        "evaluate@c": ["evaluation/c", ["base.bin"]],
        "report": ["report/metrics.json", ["evaluation", "merged"]],
    }
    digest = 32 * "a"
    lines = ["stages:"]
    for name, (out, deps) in entries.items():
        lines += [f"  {name}:", "    cmd: x", "    deps:"]
        lines += [f"    - path: {dep}\n      md5: {digest}" for dep in deps]
        lines += ["    outs:", f"    - path: {out}\n      md5: {digest}"]
    (tmp_path / "dvc.lock").write_text(
        "\n".join(lines).replace("deps:\n    outs", "deps: []\n    outs")
    )
    (tmp_path / "report").mkdir()
    numbers = {"models": {"a.b": {"sum": 1.5}, "c": {"sum": 1}}, "differences": {"c": [0.5]}}
    (tmp_path / "report/metrics.json").write_text(json.dumps(numbers))
    found = trace(tmp_path, "models.a.b.sum")
    assert found.number == 1.5
    assert set(found.stages) == {"report", "evaluate@a.b", "merge@a.b", "base"}
    assert [row["path"] for row in found.stages["report"]["inputs"]] == ["evaluation"]
    assert set(trace(tmp_path, "models.c.sum").stages) == {"report", "evaluate@c", "base"}
    assert set(trace(tmp_path, "differences.c.0").stages) == set(entries)
    assert "report/metrics.json is NOT what dvc.lock records: run pistole audit" in found.notes


def test_what_is_not_known_is_one_line(project, capsys):
    with pytest.raises(UserError, match=r"models\.none is no output, input or number"):
        trace(project, "models.none")
    with pytest.raises(UserError, match="score measured no loss: it measured sum"):
        trace(project, "score:loss")
    assert status("trace", "nothing") == 2
    assert capsys.readouterr().err.startswith("pistole: nothing is no output")


def test_an_edited_target_is_said_so(project):
    (project / "out/score.csv").unlink()
    assert trace(project, "out/score.csv").notes == [
        "out/score.csv is not on disk; dvc.lock knows it"
    ]
    (project / "out/score.csv").write_text("score\n9\n")
    (note,) = trace(project, "out/score.csv").notes
    assert note == "out/score.csv is NOT what dvc.lock records: run pistole audit"


def test_the_tree_writes_each_stage_once_with_all_that_an_auditor_asks(project):
    (project / "stage.py").write_text("dirty\n")
    repro(project)
    found = trace(project, "models.merged.sum")
    drawn = " ".join(re.sub("[│├└─]", " ", drawing.tree(found)).split())
    receipt = receipts.latest(project, "train@robust")
    for name in STAGES:
        assert len(re.findall(f"{name} \\$ stage ", drawn)) == 1
    assert f"models.merged.sum = {found.number:g}" in drawn
    assert "data (above)" in drawn
    assert "params: device=auto, lr.robust=0.0001, seed=1" in drawn
    assert f"commit {receipt['code']['commit'][:12]} DIRTY (stage.py)" in drawn
    assert f"lock {receipt['environment']['lock_sha256'][:12]}, python " in drawn
    assert f"{receipt['seconds']:g} s, {receipt['user']} on {receipt['host']}, cpu" in drawn
    assert f"raw {md5_path(project, 'raw')[:12]}" in drawn


def test_the_diagram_has_every_edge_and_the_page_every_digest(project):
    found = trace(project, "out/score.csv")
    diagram = drawing.mermaid(found)
    names = dict(re.findall(r'(s\d+)\["(.*?)"\]', diagram))
    edges = {(names[a], names[b]) for a, b in re.findall(r"(s\d+) -->\|.*\| (s\d+)", diagram)}
    assert edges == {
        ("data", "train@natural"),
        ("data", "train@robust"),
        ("data", "score"),
        ("train@natural", "merge"),
        ("train@robust", "merge"),
        ("merge", "score"),
    }
    assert re.search(r'\[/"raw<br/>.*"/\] --> s', diagram)
    page = drawing.page(found)
    for entry in lockfile.read(project).values():
        assert all(md5 in page for md5 in (entry["deps"] | entry["outs"]).values())
    assert "<script" not in page
    assert [page.count(f'id="{name}"') for name in STAGES] == [1] * len(STAGES)


def test_the_command_writes_a_file_or_prints(project, capsys):
    assert status("trace", "out/score.csv", "--format", "html", "--out", "trace.html") == 0
    assert (project / "trace.html").read_text().startswith("<!doctype html>")
    capsys.readouterr()
    assert status("trace", "out/score.csv", "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["first"] == ["score"]


def test_diff_of_two_revisions(project):
    change_params(project, "robust: 1.0e-4", "robust: 0.2")
    (project / "raw/pictures.txt").write_text("more pictures\n")
    repro(project)
    git(project, "commit", "-am", "more")
    found = compare(project, "HEAD~1", "HEAD")
    assert found["params"] == {"lr.robust": ["0.0001", "0.2"]}
    assert found["data"]["raw"][1] == md5_path(project, "raw")
    assert (set(found["data"]), found["code"], found["commands"]) == ({"raw"}, {}, {})
    told = {name: (stage["status"], stage["why"]) for name, stage in found["stages"].items()}
    assert told == {
        "data": ("changed", ["raw"]),
        "train@natural": ("stale", ["out/data/images.txt"]),
        "train@robust": ("changed", ["lr.robust", "out/data/images.txt"]),
        "merge": ("stale", ["out/checkpoints"]),
        "score": ("stale", ["out/data", "out/merged"]),
    }
    assert all(stage["ran"] for stage in found["stages"].values())
    assert found["stages"]["merge"]["outs"] == ["out/merged"]
    (change,) = found["metrics"]["report/score.json"].values()
    assert change["new"] > change["old"]
    lines = text(found)
    assert "lr.robust: 0.0001 -> 0.2" in lines
    assert "stale    merge (out/checkpoints): out/merged" in lines
    assert "report/score.json:models.merged.sum: " in lines


def test_diff_with_the_files_as_they_are_tells_what_would_run(project):
    assert text(compare(project, "HEAD")).endswith("no stage differs")
    change_params(project, "lam: 0.5", "lam: 0.25")
    found = compare(project, "HEAD")
    told = {
        name: (stage["status"], stage["why"], stage["ran"])
        for name, stage in found["stages"].items()
    }
    assert told == {
        "merge": ("changed", ["lam"], False),
        "score": ("stale", ["below merge"], False),
    }
    assert sorted(told) == sorted(repro(project))
    found = compare(project, "HEAD")
    assert all(stage["ran"] for stage in found["stages"].values())
    (project / "stage.py").write_text("new code\n")
    found = compare(project, "HEAD")
    assert list(found["code"]) == ["stage.py"]
    assert {name for name, stage in found["stages"].items() if not stage["ran"]} == set(STAGES)


def test_diff_of_a_stage_that_only_one_side_has(project):
    dag = project / "dvc.yaml"
    dag.write_text(dag.read_text().replace("source: [natural, robust]", "source: [natural]"))
    found = compare(project, "HEAD")
    assert found["stages"]["train@robust"]["status"] == "removed"


def test_diff_of_an_unknown_revision_is_one_line(project, capsys):
    assert status("diff", "nowhere") == 2
    assert "nowhere is no git revision here" in capsys.readouterr().err
