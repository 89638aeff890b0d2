"""pistole audit: receipts, MLflow runs, code and environment, tampered with."""

import shutil

import pytest

from pistole.files import write_json
from pistole.lineage import lockfile, receipts
from pistole.lineage.audit.table import text
from pistole.lineage.runs import read_runs
from pistole.lineage.track import track
from pistole.lineage.tracking import tracking_uri
from tests.e2e.lineage_project import git, repro
from tests.e2e.tampering import audited, database, describe, forge, ids, new_store, run_of


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


def test_tracking_twice_writes_nothing_new_and_keeps_everything(project):
    before = sorted(map(describe, read_runs(tracking_uri(project), ids(project))))
    done = track(project, tracking_uri(project))
    assert (done.written, done.present, done.refused) == (0, 5, [])
    folder = new_store(project)
    assert track(project, tracking_uri(project)).written == 5
    assert sorted(map(describe, read_runs(tracking_uri(project), ids(project)))) == before
    artifacts = {path.name for path in (folder / "mlartifacts").rglob("*") if path.is_file()}
    assert artifacts == {"lineage.json", "weights.txt", "rows.json"}
