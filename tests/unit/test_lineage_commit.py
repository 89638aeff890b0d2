"""What of a cluster run is refused into dvc.lock, and what it takes to be committed."""

from pathlib import Path

import pytest
from cluster_project import DVC_YAML, all_committed, make_project, run, start, write_params

from pistole.errors import UserError
from pistole.lineage import job, lockfile, receipts, stale
from pistole.lineage.commit import commit, finished

# A library of DVC's warns of its own next version.
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(job, "PATIENCE", 0)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return make_project(tmp_path)


def test_after_a_commit_dvc_finds_nothing_stale(project):
    all_committed(project)
    assert not any(stage["stale"] for stage in stale.freeze(project))
    assert (project / "c.txt").read_text() == "c snakemake\n"


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


def test_the_command_says_what_it_committed_and_what_it_refused(project, monkeypatch, capsys):
    from pistole.cli import app

    monkeypatch.chdir(project)
    start(project)
    run(project, "a", "c")
    (project / "c.txt").write_text("edited")
    with pytest.raises(
        UserError, match="b was not run by the last cluster run: see `dvc status b`"
    ):
        app(["commit", "b"], standalone_mode=False)
    assert not (project / "dvc.lock").exists()
    assert app(["commit"], standalone_mode=False) == 1
    told = capsys.readouterr()
    assert "dvc.lock: 1 stages committed, 1 refused" in told.out
    refusal = "refused c: its output c.txt changed since it ran: `dvc repro c` runs it again\n"
    assert refusal in told.err
    assert list(lockfile.read(project)) == ["a"]
    assert not app(["commit", "a"], standalone_mode=False)
