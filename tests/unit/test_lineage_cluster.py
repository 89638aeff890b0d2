"""What a cluster run freezes, what its jobs decide, and what is refused into dvc.lock."""

import json
import os
from pathlib import Path

import pytest

from pistole.errors import UserError
from pistole.lineage import frozen, job, lockfile, receipts, stale
from pistole.lineage.commit import commit, finished
from pistole.lineage.hashing import hash_paths, run_key

# A library of DVC's warns of its own next version.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")
DVC_YAML = """
stages:
  a:
    cmd: cat in.txt > a.txt
    deps: [in.txt]
    params: [x.y]
    outs: [a.txt]
    meta: {resources: {mem_mb: 300, cpus_per_task: 2, gpu: 1}}
  b:
    cmd: ["mkdir b", "cp a.txt b/b.txt"]
    deps: [a.txt]
    outs: [b: {type: dir}]
  c:
    cmd: echo $DVC_STAGE $PISTOLE_ENGINE > c.txt
    deps: [other.txt]
    outs: [c.txt]
  kept:
    frozen: true
    cmd: "false"
    outs: [kept.txt]
"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    from dvc.repo import Repo

    Repo.init(str(tmp_path), no_scm=True).close()
    files = {"dvc.yaml": DVC_YAML, "in.txt": "in", "other.txt": "other"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    write_params(tmp_path, 1)
    monkeypatch.setattr(job, "PATIENCE", 0)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def write_params(project: Path, value: int) -> None:
    (project / "params.yaml").write_text(f"x: {{y: {value}}}\nz: 1\n")


def start(project: Path) -> dict[str, frozen.Frozen]:
    table = stale.freeze(project)
    frozen.start(project, table)
    return {stage["name"]: stage for stage in table}


def run(project: Path, *names: str) -> list[str]:
    """Run jobs, leave receipts as the stages of the real DAG do, and return their reasons."""
    reasons = []
    for name in names:
        stage = frozen.find(frozen.load(project), name)
        deps = hash_paths(project, stage["deps"])
        reasons.append(job.run(project, name))
        record = {
            "stage": name,
            "cmd": stage["cmd"],
            "params": stage["params"],
            "deps": deps,
            "outs": hash_paths(project, [out["path"] for out in stage["outs"]]),
            "run_key": run_key(stage["cmd"], deps, stage["params"]),
            "started": 1,
            "code": {},
            "environment": {},
        }
        receipts.write(project, record, {})
    return reasons


def all_committed(project: Path) -> Path:
    start(project)
    run(project, "a", "b", "c")
    assert commit(project, finished(project)) == {}
    return project


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


def test_after_a_commit_dvc_finds_nothing_stale(project):
    all_committed(project)
    assert not any(stage["stale"] for stage in stale.freeze(project))
    assert (project / "c.txt").read_text() == "c snakemake\n"


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


EDITS = {
    "cmd": ("dvc.yaml", DVC_YAML.replace("cat in.txt", "cat  in.txt")),
    "params": ("params.yaml", "x: {y: 2}"),
    "input in.txt": ("in.txt", "edited"),
    "output a.txt": ("a.txt", "edited"),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_stage_edited_during_the_run_is_refused_with_what_read_it(project, what):
    start(project)
    run(project, "a", "b", "c")
    file, text = EDITS[what]
    (project / file).write_text(text)
    assert commit(project, finished(project)) == {
        "a": f"its {what} changed since it ran",
        "b": "it read what a wrote, which was refused",
    }
    assert list(lockfile.read(project)) == ["c"]


def test_a_stage_is_refused_without_its_receipt_or_if_that_was_edited(project):
    start(project)
    run(project, "a", "c")
    keys = finished(project)
    receipts.remove(project, "a", keys["a"])
    place = receipts.path_of(project, "c", keys["c"])
    place.write_text(place.read_text().replace('"started": 1', '"started": 2'))
    assert commit(project, keys) == {
        "a": "it left no receipt of what it read and wrote",
        "c": "its receipt was edited",
    }
    assert not (project / "dvc.lock").exists()


def test_what_changes_between_the_check_and_dvcs_own_look_is_taken_back(project, monkeypatch):
    from dvc.repo import Repo

    all_committed(project)
    old = (project / "dvc.lock").read_bytes()
    write_params(project, 2)
    start(project)
    run(project, "a")
    honest = Repo.commit

    def edit_first(repo, *arguments, **named):
        (project / "a.txt").write_text("edited")
        return honest(repo, *arguments, **named)

    monkeypatch.setattr(Repo, "commit", edit_first)
    refused = commit(project, finished(project))
    assert refused == {"a": "its outs changed while it was committed"}
    assert (project / "dvc.lock").read_bytes() == old


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
