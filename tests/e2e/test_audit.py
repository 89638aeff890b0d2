"""pistole audit on a project of five stages, whole and tampered with in every way it must see."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pistole.errors import UserError
from pistole.files import write_json
from pistole.lineage import audit as package
from pistole.lineage import lockfile, receipts
from pistole.lineage.audit import audit
from pistole.lineage.audit.table import text
from pistole.lineage.runs import read_runs
from pistole.lineage.track import track
from pistole.lineage.tracking import tracking_uri
from tests.e2e.lineage_project import copy, create, finish, git, repro
from tests.e2e.micro import ROOT, environment, status


class InProcess:
    """Reads runs without a process of its own: mlflow is imported here already."""

    def __init__(self, uri):
        self.uri = uri

    def read(self, wanted):
        try:
            return read_runs(self.uri, wanted)
        except FileNotFoundError as error:
            raise RuntimeError(str(error)) from None

    def close(self):
        pass


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finish(create(tmp_path_factory.mktemp("finished") / "project"))


@pytest.fixture
def project(finished, tmp_path, monkeypatch):
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/project/mlflow.db")
    monkeypatch.setattr(package, "Reader", InProcess)
    folder = copy(finished, tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


def audited(project, allow=()):
    report = audit(project, tracking_uri(project), allow)
    return report, {(finding.check, finding.stage) for finding in report.findings}


def dvc(project, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def change_lock(project, old, new, count=1):
    lock = (project / "dvc.lock").read_text()
    assert old in lock
    (project / "dvc.lock").write_text(lock.replace(old, new, count))


def database(project, statement, *values):
    with sqlite3.connect(project / "mlflow.db") as connection:
        done = connection.execute(statement, values)
        assert done.rowcount > 0
    connection.close()


def new_store(project):
    """Leave the store for one that does not exist yet: mlflow keeps an open one by its address."""
    folder = Path(tempfile.mkdtemp(dir=project / ".pistole"))
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    return folder


def run_of(project, stage):
    return receipts.latest(project, stage)["run_id"]


def test_a_finished_project_agrees(project):
    report, found = audited(project)
    assert report.ok, text(report)
    assert found == set()
    assert report.notes == []
    unmade = [name for name, count in report.counts().items() if not count["checked"]]
    assert unmade == []
    assert "5 stages audited, 0 findings: everything agrees" in text(report)


def test_the_command_prints_json_and_ends_with_0_or_1(finished, project):
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


def test_a_deleted_run(project):
    run = run_of(project, "merge")
    database(project, "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", run)
    report, found = audited(project)
    assert found == {("run", "merge")}
    assert report.findings[0].remedy == f"mlflow runs restore --run-id {run}"
    track(project, tracking_uri(project))
    assert audited(project)[0].ok
    assert run_of(project, "merge") != run


def test_a_store_without_the_run_and_no_store_at_all(project):
    run = run_of(project, "merge")
    database(project, "DELETE FROM tags WHERE run_uuid = ? AND key = 'pistole.receipt'", run)
    report, found = audited(project)
    assert found == {("run", "merge")}
    assert report.findings[0].remedy == "pistole track"
    folder = new_store(project)
    report, _ = audited(project)
    assert [finding.check for finding in report.findings] == ["store"]
    assert list(folder.iterdir()) == []
    assert track(project, tracking_uri(project)).written == 5
    assert audited(project)[0].ok


@pytest.mark.parametrize(
    ("table", "key"), [("metrics", "loss"), ("metrics", "sum"), ("params", "lam"), ("tags", "host")]
)
def test_a_run_with_forged_values(project, table, key):
    database(project, f"UPDATE {table} SET value = '7' WHERE key = ?", key)
    _, found = audited(project)
    expected = {
        "loss": {("metrics", "train@natural"), ("metrics", "train@robust")},
        "sum": {("metrics", "score")},
        "lam": {("run", "merge")},
        "host": {("run", stage) for stage in lockfile.read(project)},
    }
    assert found == expected[key]


def test_a_forged_metrics_file(project):
    receipt = receipts.latest(project, "score")
    place = receipts.path_of(project, "score", receipt["run_key"]).with_suffix(".metrics.json")
    write_json(place, {"metrics": [["sum", 7.0, 0, 0]], "tables": {}, "files": []})
    report, found = audited(project)
    assert found == {("metrics", "score")}
    assert "is not what its receipt says" in report.findings[0].text
    new_store(project)
    done = track(project, tracking_uri(project))
    assert (done.written, len(done.refused)) == (4, 1)


def test_metrics_file_and_receipt_forged_together(project):
    receipt = receipts.latest(project, "score")
    forged = {"metrics": [["sum", 7.0, 0, 0]], "tables": {}, "files": []}
    record = {k: v for k, v in receipt.items() if k not in ("id", "run_id", "metrics_sha256")}
    receipts.write(project, record, forged)
    assert audited(project)[1] == {("run", "score")}


def test_an_edited_receipt(project):
    receipt = receipts.latest(project, "merge")
    place = receipts.path_of(project, "merge", receipt["run_key"])
    write_json(place, receipt | {"host": "elsewhere"})
    assert audited(project)[1] == {("receipt", "merge")}
    write_json(place, {"stage": "merge"})
    assert audited(project)[1] == {("receipt", "merge")}
    place.unlink()
    report, found = audited(project)
    assert found == {("receipt", "merge")}
    assert "the stage has no receipt at all" in report.findings[0].text


def test_a_swapped_pair_of_checkpoints(project):
    natural, robust = (project / "out/checkpoints" / source for source in ("natural", "robust"))
    natural.rename(project / "aside")
    robust.rename(natural)
    (project / "aside").rename(robust)
    report, found = audited(project)
    assert found == {("output", "train@natural"), ("output", "train@robust")}
    assert "it holds the content of out/checkpoints/robust" in report.findings[0].text


def test_a_stage_run_from_a_dirty_tree(project):
    (project / "stage.py").write_text("uncommitted code\n")
    ran = repro(project)
    track(project, tracking_uri(project))
    report, found = audited(project)
    assert found == {(check, stage) for stage in ran for check in ("dirty", "code")}
    assert "stage.py differed from the commit" in text(report)
    assert audited(project, allow=["dirty", "code"])[0].ok
    assert not audited(project, allow=["dirty"])[0].ok


def test_a_dirty_tree_that_the_receipt_hides(project):
    (project / "stage.py").write_text("uncommitted code\n")
    repro(project)
    for receipt in list(receipts.every(project)):
        record = {k: v for k, v in receipt.items() if k not in ("id", "run_id", "metrics_sha256")}
        record["code"] = {**record["code"], "changed": []}
        receipts.write(project, record, receipts.measured(project, receipt))
    new_store(project)
    track(project, tracking_uri(project))
    assert {check for check, _ in audited(project)[1]} == {"code"}


def test_a_commit_that_the_repository_does_not_have(project):
    shutil.rmtree(project / ".git")
    git(project, "init")
    git(project, "add", ".")
    git(project, "commit", "-m", "without history")
    report, found = audited(project)
    assert {check for check, _ in found} == {"code"}
    assert "is not in this repository" in text(report)


def test_another_lock(project):
    with (project / "envs/runtime.txt").open("a") as lock:
        lock.write("surprise==1\n")
    report, found = audited(project)
    assert found == {("environment", stage) for stage in lockfile.read(project)}
    assert "ran with another envs/runtime.txt" in text(report)


def test_versions_that_the_lock_does_not_pin_or_others_did_not_have(project):
    forge(project, "train@robust", {"versions": {"pistole": "0.0", "torch": "1.0"}})
    report, found = audited(project)
    assert found == {("environment", "train@robust")}
    assert "torch 1.0" in report.findings[0].text


def test_another_device(project):
    forge(project, "train@robust", {"device": "cuda", "device_name": "a GPU"})
    report, found = audited(project)
    assert {check for check, _ in found} == {"device"}
    assert "other stages on" in report.findings[0].text
    assert audited(project, allow=["device"])[0].ok


def test_a_device_that_was_not_asked_for(project):
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("auto", "cpu"))
    repro(project)
    track(project, tracking_uri(project))
    assert audited(project)[0].ok
    forge(project, "train@robust", {"device": "cuda"})
    report, found = audited(project)
    assert found == {("device", "train@robust")}
    assert "ran on cuda, but device is cpu" in report.findings[0].text


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


def test_parameters_switched_back_find_their_own_receipts(project):
    params = project / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("lam: 0.5", "lam: 0.75"))
    assert repro(project) == ["merge", "score"]
    params.write_text(before)
    assert repro(project) == []
    assert audited(project)[0].ok


def test_another_run_with_the_same_inputs_and_other_outputs_is_noted(project):
    run = run_of(project, "merge")
    database(project, "DELETE FROM tags WHERE run_uuid = ? AND key = 'pistole.receipt'", run)
    database(project, "UPDATE tags SET value = '{}' WHERE run_uuid = ? AND key = 'dvc.outs'", run)
    track(project, tracking_uri(project))
    report, _ = audited(project)
    assert report.ok
    assert report.notes == [f"merge: run {run} had the same inputs, but other outputs"]


def test_a_check_to_allow_must_exist(project, capsys):
    with pytest.raises(UserError, match="check to allow is 'nothing': choose one of lock, output"):
        audited(project, allow=["nothing"])
    assert status("audit", "--allow", "nothing") == 2
    assert capsys.readouterr().err.startswith("pistole: check to allow")


def test_a_folder_that_is_no_project(tmp_path, monkeypatch):
    monkeypatch.setattr(package, "Reader", InProcess)
    report = audit(tmp_path, tracking_uri(tmp_path))
    assert [finding.check for finding in report.findings] == ["lock"]


def test_tracking_twice_writes_nothing_new_and_keeps_everything(project):
    before = sorted(map(describe, read_runs(tracking_uri(project), ids(project))))
    done = track(project, tracking_uri(project))
    assert (done.written, done.present, done.refused) == (0, 5, [])
    folder = new_store(project)
    assert track(project, tracking_uri(project)).written == 5
    assert sorted(map(describe, read_runs(tracking_uri(project), ids(project)))) == before
    artifacts = {path.name for path in (folder / "mlartifacts").rglob("*") if path.is_file()}
    assert artifacts == {"lineage.json", "weights.txt", "rows.json"}


def ids(project):
    return {receipt["id"] for receipt in receipts.every(project)}


def describe(run):
    return json.dumps({k: v for k, v in run.items() if k != "run_id"}, sort_keys=True)


def forge(project, stage, changes):
    """Rewrite a receipt and all runs, as whoever may write everything could."""
    receipt = receipts.latest(project, stage)
    record = {k: v for k, v in receipt.items() if k not in ("id", "run_id", "metrics_sha256")}
    record["environment"] = {**record["environment"], **changes}
    receipts.write(project, record, receipts.measured(project, receipt))
    new_store(project)
    track(project, tracking_uri(project))


def edit(path: Path, content: str) -> None:
    """Write to a file that DVC may have made read-only."""
    path.unlink()
    path.write_text(content)
