"""What a cluster run freezes, and what its jobs decide."""

import json
import os
from pathlib import Path

import pytest
from cluster_project import DVC_YAML, all_committed, make_project, run, start, write_params

from pistole.errors import UserError
from pistole.lineage import frozen, job, stale
from pistole.lineage.commit import finished
from pistole.lineage.hashing import hash_paths

# A library of DVC's warns of its own next version.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(job, "PATIENCE", 0)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return make_project(tmp_path)


def test_a_first_run_freezes_every_stage_but_the_frozen_one(project):
    before = sorted(path.name for path in project.iterdir())
    table = {stage["name"]: stage for stage in stale.freeze(project)}
    assert sorted(path.name for path in project.iterdir()) == before
    assert list(table) == ["a", "b", "c"]
    assert all(stage["stale"] and stage["locked"] is None for stage in table.values())
    assert table["b"]["after"] == [table["a"]["token"]]
    assert [table[name]["sources"] for name in "abc"] == [["in.txt"], [], ["other.txt"]]
    assert json.loads(json.dumps(table)) == table
    assert stale.freeze(project)[0]["token"] != table["a"]["token"]


def test_what_is_below_a_changed_stage_is_stale_and_the_rest_is_not(project):
    all_committed(project)
    write_params(project, 2)
    table = start(project)
    assert {name: stage["stale"] for name, stage in table.items()} == {
        "a": True,
        "b": True,
        "c": False,
    }
    assert table["b"]["locked"]["cmd"] == ["mkdir b", "cp a.txt b/b.txt"]


def test_a_stage_whose_inputs_come_out_the_same_does_not_run(project):
    all_committed(project)
    write_params(project, 2)
    start(project)
    assert run(project, "a") == ["its params changed"]
    before = (project / "b").stat().st_ino
    assert job.run(project, "b") == ""
    assert (project / "b").stat().st_ino == before
    assert list(finished(project)) == ["a"]


def test_a_job_says_what_made_it_run(project):
    all_committed(project)
    stage = start(project)["b"]
    assert job.run(project, "b") == ""

    def reason(**changes):
        deps = hash_paths(project, ["a.txt"])
        return job._changed(project, {**stage, **changes}, deps)

    assert reason() == ""
    assert reason(locked=None) == "it has never run"
    assert reason(always=True) == "it always runs"
    assert reason(cmd=["x"]) == "its cmd changed"
    assert reason(locked={**stage["locked"], "deps": {}}) == "its input a.txt changed"
    more = {**stage["locked"]["deps"], "gone.txt": "0"}
    assert reason(locked={**stage["locked"], "deps": more}) == "its list of inputs changed"
    (project / "b/b.txt").write_text("edited")
    assert reason() == "its output b is not what dvc.lock has"


def test_old_outputs_are_removed_and_never_written_through(project):
    all_committed(project)
    os.link(project / "a.txt", project / "cached.txt")
    (project / "in.txt").write_text("new")
    start(project)
    run(project, "a", "b")
    assert (project / "cached.txt").read_text() == "in"
    assert (project / "b/b.txt").read_text() == "new"


def test_a_job_refuses_parameters_that_were_edited_since_the_run_began(project):
    start(project)
    write_params(project, 2)
    told = r"a: params\.yaml: x\.y was 1 when the run began and is 2 now: start the run again"
    with pytest.raises(UserError, match=told):
        job.run(project, "a")
    assert not (project / "a.txt").exists()
    (project / "params.yaml").write_text("x: {y: 1}\nz: 2\n")  # the stage reads no z
    assert job.run(project, "a") == "it has never run"


def test_a_job_refuses_parameters_that_are_edited_while_it_runs(project):
    (project / "later.yaml").write_text("x: {y: 2}")
    edit = "cp later.yaml params.yaml; cat in.txt >"
    (project / "dvc.yaml").write_text(DVC_YAML.replace("cat in.txt >", edit))
    start(project)
    with pytest.raises(UserError, match="is 2 now"):
        job.run(project, "a")
    assert finished(project) == {}


def test_a_failing_command_and_a_missing_input_are_one_line(project):
    start(project)
    with pytest.raises(UserError, match=r"a\.txt does not exist: run the stage that writes it"):
        job.run(project, "b")
    (project / "dvc.yaml").write_text(DVC_YAML.replace("cat in.txt", "exit 3; cat in.txt"))
    start(project)
    with pytest.raises(UserError, match=r"a: `exit 3; .*` ended with status 3"):
        job.run(project, "a")
    with pytest.raises(UserError, match="has no stage nope: start the run again"):
        job.run(project, "nope")


def test_a_server_is_logged_to_live_and_a_file_from_receipts(project, monkeypatch):
    (project / "dvc.yaml").write_text("stages: {a: {cmd: 'echo $PISTOLE_TRACKING > a', outs: [a]}}")
    for uri, told in (("", "receipts"), ("sqlite:///x.db", "receipts"), ("http://x", "")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        start(project)
        job.run(project, "a")
        assert (project / "a").read_text().strip() == told


def test_a_stale_stage_that_keeps_its_outputs_is_left_to_dvc(project):
    text = DVC_YAML.replace("outs: [c.txt]", "outs: [c.txt: {persist: true}]")
    (project / "dvc.yaml").write_text(text)
    with pytest.raises(UserError, match=r"c keeps its outputs .*: run it with `dvc repro c`"):
        stale.freeze(project)


def test_resources_are_those_of_meta(project):
    table = {stage["name"]: stage for stage in stale.freeze(project)}
    assert frozen.threads_of(table["a"]) == 2
    assert frozen.resources_of(table["a"], "gpu") == {"mem_mb": 300, "gpu": 1}
    assert frozen.resources_of(table["a"], "gres") == {"mem_mb": 300, "gres": "gpu:1"}
    assert (frozen.threads_of(table["b"]), frozen.resources_of(table["b"], "gres")) == (1, {})
    with pytest.raises(UserError, match="gpu_request is 'gpus': choose one of gpu, gres"):
        frozen.resources_of(table["a"], "gpus")


def test_without_a_run_there_is_nothing_to_commit_or_report(project):
    with pytest.raises(UserError, match="does not exist: start a run with snakemake"):
        finished(project)
    assert frozen.last(project) == []
    assert frozen.rule_name("evaluate@wise-ft.1") == "evaluate_wise_ft_1"
