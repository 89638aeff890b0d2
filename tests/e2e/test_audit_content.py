"""pistole audit: files and dvc.lock, whole and tampered with."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from pistole.errors import UserError
from pistole.files import write_json
from pistole.lineage import audit as package
from pistole.lineage import lockfile
from pistole.lineage.audit import audit
from pistole.lineage.audit.table import text
from pistole.lineage.track import track
from pistole.lineage.tracking import tracking_uri
from tests.e2e.conftest import InProcess
from tests.e2e.lineage_project import repro
from tests.e2e.micro import ROOT, environment, status
from tests.e2e.tampering import (
    audited,
    change_lock,
    dvc,
    edit,
)


def test_a_finished_project_agrees(project):
    report, found = audited(project)
    assert report.ok, text(report)
    assert found == set()
    assert report.notes == []
    unmade = [name for name, count in report.counts().items() if not count["checked"]]
    assert unmade == []
    assert "5 stages audited, 0 findings: everything agrees" in text(report)


def test_the_command_prints_json_and_ends_with_0_or_1(project):
    command = [sys.executable, "-P", "-m", "pistole", "audit", "--json"]
    run = {"cwd": project, "env": environment() | {"PYTHONPATH": str(ROOT)}, "text": True}
    good = subprocess.run(command, capture_output=True, check=False, **run)
    assert (good.returncode, good.stderr) == (0, "")
    assert json.loads(good.stdout)["ok"] is True
    (project / "out/score.csv").chmod(0o644)
    (project / "out/score.csv").write_text("score\n1000\n")
    bad = subprocess.run(command, capture_output=True, check=False, **run)
    assert bad.returncode == 1
    (finding,) = json.loads(bad.stdout)["findings"]
    assert (finding["check"], finding["stage"]) == ("output", "score")
    assert finding["remedy"] == "dvc checkout --force out/score.csv"


def test_an_edited_output(project):
    edit(project / "out/merged/visual.txt", "better")
    report, found = audited(project)
    assert not report.ok
    assert found == {("output", "merge")}
    assert "out/merged is not what dvc.lock records" in text(report)
    dvc(project, "checkout", "--force", "out/merged")
    assert audited(project)[0].ok


def test_a_removed_output(project):
    shutil.rmtree(project / "out/merged")
    _, found = audited(project)
    assert found == {("output", "merge")}


def test_an_edited_metrics_file(project):
    write_json(project / "report/score.json", {"models": {"merged": {"sum": 2}}})
    report, found = audited(project)
    assert found == {("output", "score")}
    assert report.findings[0].remedy == "git checkout -- report/score.json"


def test_an_edited_input(project):
    (project / "raw/pictures.txt").write_text("other pictures\n")
    report, found = audited(project)
    assert found == {("input", "data")}
    assert "raw is not what dvc.lock records" in text(report)


def test_edited_code(project):
    (project / "stage.py").write_text("other code\n")
    _, found = audited(project)
    assert found == {("input", stage) for stage in lockfile.read(project)}


def test_an_edited_parameter(project):
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("lam: 0.5", "lam: 0.9"))
    report, found = audited(project)
    assert found == {("lock", "merge")}
    assert "params.yaml:lam differ" in report.findings[0].text


@pytest.mark.parametrize("side", ["outs", "deps"])
def test_an_edited_digest_in_dvc_lock(project, side):
    entry = lockfile.read(project)["merge"]
    (md5,) = [md5 for path, md5 in entry[side].items() if path != "stage.py"]
    change_lock(project, md5, md5[:32][::-1] + ".dir")
    _, found = audited(project)
    expected = {
        "outs": {("output", "merge"), ("producer", "score"), ("result", "merge")},
        "deps": {("input", "merge"), ("producer", "merge"), ("receipt", "merge")},
    }
    assert found & expected[side]
    assert ("result" if side == "outs" else "receipt", "merge") in found


def test_an_edited_parameter_in_dvc_lock(project):
    change_lock(project, "lam: 0.5", "lam: 0.6")
    _, found = audited(project)
    assert found == {("lock", "merge"), ("receipt", "merge")}


def test_a_parameter_edited_everywhere(project):
    change_lock(project, "lam: 0.5", "lam: 0.6")
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("lam: 0.5", "lam: 0.6"))
    report, found = audited(project)
    assert found == {("receipt", "merge")}
    assert "its last run differs in params" in report.findings[0].text


@pytest.mark.parametrize(
    "damage",
    [
        lambda lock: re.sub("md5: [0-9a-f]{32}\n", f"md5: {32 * '1'}\n", lock, count=1),
        lambda lock: lock.replace("stages:", "stages: ["),
        lambda lock: lock.replace("cmd:", "command:"),
    ],
)
def test_a_dvc_lock_that_dvc_would_not_write(project, damage):
    lock = project / "dvc.lock"
    lock.write_text(damage(lock.read_text()))
    report, found = audited(project)
    assert found == {("lock", "dvc.lock")}
    assert "git checkout dvc.lock" in report.findings[0].remedy


def test_a_missing_dvc_lock_and_a_missing_entry(project):
    lock = (project / "dvc.lock").read_text()
    head, tail = lock.split("  score:\n")
    rest = re.split(r"^  (?=\S)", tail, maxsplit=1, flags=re.MULTILINE)[1:]
    (project / "dvc.lock").write_text(head + "".join(f"  {part}" for part in rest))
    assert audited(project)[1] == {("lock", "score")}
    (project / "dvc.lock").unlink()
    assert audited(project)[1] == {("lock", "dvc.lock")}


def test_an_output_edited_and_blessed_by_dvc_commit(project):
    edit(project / "out/merged/visual.txt", "better")
    dvc(project, "commit", "--force")
    assert "up to date" in dvc(project, "status")
    _, found = audited(project)
    assert found == {("result", "merge"), ("receipt", "score")}


def test_an_output_of_the_last_stage_edited_and_blessed(project):
    edit(project / "report/score.json", '{"models": {"merged": {"sum": 9}}}')
    dvc(project, "commit", "--force", "score")
    assert audited(project)[1] == {("result", "score")}


def test_a_swapped_pair_of_checkpoints(project):
    natural, robust = (project / "out/checkpoints" / source for source in ("natural", "robust"))
    natural.rename(project / "aside")
    robust.rename(natural)
    (project / "aside").rename(robust)
    report, found = audited(project)
    assert found == {("output", "train@natural"), ("output", "train@robust")}
    assert "it holds the content of out/checkpoints/robust" in report.findings[0].text


def test_a_file_that_no_stage_wrote(project):
    (project / "out/checkpoints/old").mkdir()
    (project / "out/checkpoints/old/weights.txt").write_text("left over")
    report, found = audited(project)
    assert found == {("stray", "merge"), ("input", "merge")} or found >= {("stray", "merge")}
    assert "out/checkpoints/old/weights.txt, which no stage wrote" in text(report)


def test_a_stage_that_was_not_run_again_after_its_producer(project):
    dvc_lock = (project / "dvc.lock").read_text()
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("lam: 0.5", "lam: 0.75"))
    repro(project)
    track(project, tracking_uri(project))
    assert audited(project)[0].ok
    old = lockfile.parse(dvc_lock)["merge"]["outs"]["out/merged"]
    new = lockfile.read(project)["merge"]["outs"]["out/merged"]
    lock = (project / "dvc.lock").read_text()
    head, score = (
        lock.split("  score:\n") if lock.index("  score:") > lock.index("  merge:") else (lock, "")
    )
    (project / "dvc.lock").write_text(f"{head}  score:\n{score.replace(new, old)}")
    assert ("producer", "score") in audited(project)[1]


def test_a_check_to_allow_must_exist(project, capsys):
    with pytest.raises(UserError, match="check to allow is 'nothing': choose one of lock, output"):
        audited(project, allow=["nothing"])
    assert status("audit", "--allow", "nothing") == 2
    assert capsys.readouterr().err.startswith("pistole: check to allow")


def test_a_folder_that_is_no_project(tmp_path, monkeypatch):
    monkeypatch.setattr(package, "Reader", InProcess)
    report = audit(tmp_path, tracking_uri(tmp_path))
    assert [finding.check for finding in report.findings] == ["lock"]
