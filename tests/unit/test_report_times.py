"""The page with times: what it adds, and that the page itself stays without them."""

import shutil
from pathlib import Path

import pytest

from pistole.errors import UserError
from pistole.lineage import receipts
from pistole.lineage.hashing import run_key
from pistole.report.times import Ran, added, clock, large, with_times
from pistole.stages import times
from tests.e2e.micro import ROOT, inside, status, write_micro

ENVIRONMENT = {
    "lock_sha256": "e" * 64,
    "python": "3.11.9",
    "platform": "Linux",
    "versions": {"torch": "2.9", "numpy": "2.3"},
    "device": "cpu",
    "device_name": "some processor",
}
PAGE = "<h2>x</h2>\n<!-- times -->\n<p>none</p>\n<!-- end of times -->\n<p>rest</p>\n"
MD5 = "0" * 32


def ran(name: str, seconds: float = 1.0, cost: float | None = None, where: str = "a on b") -> Ran:
    return Ran(name, seconds, cost, ENVIRONMENT, where, "c" * 40)


def test_times_take_the_place_that_the_page_keeps_for_them() -> None:
    stages = [ran("merge@a", 30), ran("merge@b", 45, 2000), ran("base", 25)]
    text = with_times(PAGE, stages, ["pretrain"])
    assert text.startswith("<h2>x</h2>\n")
    assert text.endswith("\n<p>rest</p>\n")
    assert "<p>none</p>" not in text
    assert "1:40 in all" in text
    row = text[text.index('<th scope="row">merge</th>') :].partition("</tr>")[0]
    assert '<td data-v="2">2</td><td data-v="75">1:15</td>' in row
    assert "75 %" in row
    assert "2 k" in row
    assert text.count("some processor") == 1
    assert "Without a receipt, so not run here: pretrain." in text


def test_every_environment_is_told_once() -> None:
    text = with_times(PAGE, [ran("base"), ran("masks", where="c on d"), ran("select")], [])
    assert "2: base, select" in text
    assert "1: masks" in text


def test_a_page_without_the_place_is_refused() -> None:
    with pytest.raises(UserError, match="run stage report again"):
        with_times("<p>old</p>", [ran("base")], [])


def test_durations_and_passes_are_short() -> None:
    assert [clock(s) for s in (4.5, 59.4, 62, 3723)] == ["4.5 s", "59.4 s", "1:02", "1:02:03"]
    assert [large(v) for v in (None, 0, 12, 51234, 2.5e6, 3e9)] == [
        *("–", "–", "12", "51.2 k", "2.5 M", "3 G")
    ]
    assert added([None, None]) is None
    assert added([None, 2.0, 3.0]) == 5.0


def project(folder: Path, written: Path) -> Path:
    """A project of two stages, of which one has a receipt."""
    entry = {"cmd": ["pistole base"], "deps": {"a": MD5}, "params": {}, "outs": {"b": MD5}}
    lock = "stages:\n"
    for name in ("base", "masks"):
        lock += f"  {name}:\n    cmd: pistole base\n    deps: [{{path: a, md5: '{MD5}'}}]\n"
        lock += f"    outs: [{{path: b{name}, md5: '{MD5}'}}]\n"
    folder.mkdir()
    (folder / "dvc.lock").write_text(lock)
    shutil.copytree(written, folder / "report")
    key = run_key(entry["cmd"], entry["deps"], entry["params"])
    record = {**entry, "stage": "base", "run_key": key, "host": "h", "user": "u", "started": 1}
    record |= {"seconds": 12.5, "engine": "dvc", "slurm_job": None}
    record |= {"code": {"commit": None, "changed": []}, "environment": ENVIRONMENT}
    receipts.write(folder, record, {"metrics": [], "tables": {}, "files": []})
    return folder


@pytest.mark.usefixtures("figures_of_the_records")
def test_the_full_page_is_written_beside_the_page(written: Path, tmp_path: Path) -> None:
    folder = project(tmp_path / "project", written)
    before = (folder / "report/index.html").read_bytes()
    told = times.run(folder, folder / "report", {"base": 7000.0})
    assert told.endswith("full.html: 1 stages, 12.5 s")
    assert (folder / "report/index.html").read_bytes() == before
    text = (folder / "report/full.html").read_text()
    assert "u on h; cpu, some processor; Linux" in text
    assert '<td data-v="7000.0">7 k</td>' in text
    assert "not run here: masks." in text
    assert "pistole times" not in text


@pytest.mark.usefixtures("figures_of_the_records")
def test_without_receipts_there_are_no_times(written: Path, tmp_path: Path) -> None:
    folder = project(tmp_path / "project", written)
    shutil.rmtree(folder / ".pistole")
    with pytest.raises(UserError, match="has no receipt of this run"):
        times.run(folder, folder / "report", {})
    with pytest.raises(UserError, match="run stage report"):
        times.run(folder, folder / "nowhere", {})


@pytest.mark.usefixtures("figures_of_the_records")
def test_the_command_adds_the_planned_cost(written: Path, tmp_path: Path, capsys) -> None:
    folder = project(tmp_path / "project", written)
    shutil.copy(ROOT / "dvc.yaml", folder)
    with inside(folder):
        write_micro(Path("params.yaml"))
        assert status("times") == 0
    assert capsys.readouterr().out == "report/full.html: 1 stages, 12.5 s\n"
    text = (folder / "report/full.html").read_text()
    row = text[text.index('<table class="sortable times">') :].partition("</tr>\n</tbody>")[0]
    assert '<th scope="row">base</th>' in row
