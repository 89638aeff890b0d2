"""The MLflow store: what fits into it, and one writer at a time."""

import fcntl

import pytest

from pistole.lineage import store
from pistole.lineage.record import StageRun
from pistole.lineage.writer import Writer


def test_long_values_become_digests_and_nested_params_leaves():
    assert store.fit("x" * 5000) == "x" * 5000
    assert store.fit("x" * 5001).startswith("sha256:")
    assert store.flatten({"a": {"b": [1], "c": None}, "d": "t"}) == {
        "a.b": "[1]",
        "a.c": "null",
        "d": "t",
    }


def test_a_writer_that_cannot_write_says_why_and_one_that_is_not_asked_ends():
    writer = Writer("sqlite:////proc/nowhere/x.db")
    with pytest.raises(RuntimeError, match=r"No such file.*x\.db"):
        writer.write(StageRun("a"), {}, {}, "FINISHED")
    idle = Writer("sqlite:////proc/nowhere/x.db")
    idle.close()
    assert idle._process.poll() is not None


def test_two_processes_never_open_the_database_at_once(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with store._locked(uri):
        other = (tmp_path / "mlflow.db.lock").open("w")
        with other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / "mlflow.db.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
