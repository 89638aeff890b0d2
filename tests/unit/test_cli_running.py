"""How a command ends that did not end by itself."""

import os
import re
import sys
from pathlib import Path

import pytest

from pistole import __main__ as program
from pistole.cli import app, running
from pistole.progress import QUIET
from pistole.stages import params as stage


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (QUIET, running.DEBUG, "DVC_STAGE"):
        monkeypatch.setenv(name, "")  # so that what the command sets is undone, too
        monkeypatch.delenv(name)
    monkeypatch.setattr(running.tempfile, "tempdir", str(tmp_path))


def ends(monkeypatch: pytest.MonkeyPatch, error: BaseException, *arguments: str) -> int:
    """Let ``pistole schema ARGUMENTS`` fail, and return the exit status."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(stage, "export_schema", fail)
    monkeypatch.setattr(sys, "argv", ["pistole", "schema", *arguments])
    with pytest.raises(SystemExit) as stopped:
        program.main()
    return stopped.value.code


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["merge", "pistole", "--quiet"], ["--quiet", "merge", "pistole"]),
        (["a", "--debug", "b", "--quiet"], ["--debug", "--quiet", "a", "b"]),
        (["a", "--", "--quiet"], ["a", "--", "--quiet"]),
        ([], []),
    ],
)
def test_switches_may_stand_anywhere(given, expected):
    assert running.to_front(given) == expected


def test_ctrl_c_is_one_line_and_status_130(monkeypatch, capsys):
    assert ends(monkeypatch, KeyboardInterrupt(), "--check") == 130
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == (
        "\npistole: interrupted: outputs that were there are as they were, and none is "
        "half-written: `pistole schema --check` does it anew\n"
    )


def leave(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Be in a folder where a long stage has left its state."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".pistole/resume").mkdir(parents=True)
    (tmp_path / ".pistole/resume" / name).touch()


@pytest.mark.parametrize("command", ["finetune", "evaluate", "frontier", "pretrain"])
def test_an_interrupted_long_stage_says_where_it_goes_on(command, monkeypatch, tmp_path):
    leave(f"{command}-natural", monkeypatch, tmp_path)
    told = running.interruption(command, [command, "it's"])
    assert ".pistole/resume" in told
    assert told.endswith("goes on from there")
    assert "\n" not in told


def test_a_long_stage_that_left_no_state_does_not_say_it_did(monkeypatch, tmp_path):
    leave("evaluate-base", monkeypatch, tmp_path)
    assert running.interruption("finetune", ["finetune"]).endswith(
        "`pistole finetune` does it anew"
    )


def test_under_dvc_the_way_on_is_dvc_repro(monkeypatch, tmp_path):
    leave("finetune-natural.safetensors", monkeypatch, tmp_path)
    monkeypatch.setenv("DVC_STAGE", "finetune@natural")
    assert "`dvc repro` goes on" in running.interruption("finetune", ["finetune", "natural"])


def test_the_interrupted_command_is_named_however_the_program_was_started(monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "show_profiles", stop)
    with pytest.raises(running.InterruptError) as stopped:
        app(["profile", "list"], prog_name="python -m pistole")
    assert stopped.value.command == "profile list"


def test_an_unexpected_error_is_a_block_to_report_and_keeps_its_traceback(monkeypatch, capsys):
    assert ends(monkeypatch, KeyError("gone"), "--file", "a b") == 1
    told = capsys.readouterr().err
    assert told.startswith("pistole: unexpected error: KeyError: 'gone' (test_cli_running.py:")
    assert "  command    pistole schema --file 'a b'\n" in told
    assert "Traceback" not in told
    place = Path(re.search(r"traceback  (.*)", told)[1])
    assert "KeyError: 'gone'" in place.read_text()
    assert "CONTRIBUTING.md" in told


def test_debug_prints_the_traceback(monkeypatch, capsys):
    assert ends(monkeypatch, KeyError("gone"), "--debug") == 1
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last):")
    assert "  traceback  above\n" in told


def test_a_traceback_that_cannot_be_written_hides_nothing(monkeypatch):
    monkeypatch.setattr(running.tempfile, "tempdir", "/nowhere")
    told = running.crash(KeyError("gone"), [])
    assert "KeyError: 'gone'" in told
    assert "could not be written: set PISTOLE_DEBUG=1" in told


def test_quiet_is_for_the_processes_that_a_command_starts_too(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(stage, "export_schema", lambda *_, **__: seen.append(os.environ[QUIET]))
    monkeypatch.setattr(sys, "argv", ["pistole", "schema", "--quiet"])
    with pytest.raises(SystemExit) as stopped:
        program.main()
    assert (stopped.value.code, seen) == (0, ["1"])
