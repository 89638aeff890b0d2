"""Progress: nested bars on a terminal, lines in a log, nothing but warnings if quiet."""

import io
import sys
from collections.abc import Callable

import pytest

from pistole import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(progress.QUIET, raising=False)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """A function that makes standard error a terminal; pytest's own comes back before a test."""

    def become() -> Terminal:
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    return become


def test_counts_inside_of_a_count_share_one_display(terminal):
    screen = terminal()
    with progress.counting("stage evaluate@base", None):
        with progress.counting("evaluate base", 2) as task:
            with progress.counting("cars [1]", None) as batch:
                batch("apgd_ce/0")
                (bars,) = progress._bars
                assert [line.description for line in bars.tasks] == [
                    "stage evaluate@base",
                    "  evaluate base",
                    "    cars [1] apgd_ce/0",
                ]
            task("cars clean 0.5")
            assert [line.completed for line in bars.tasks] == [0, 1]
        assert len(bars.tasks) == 1
    assert not progress._bars
    assert "stage evaluate@base" in screen.getvalue()


def test_an_error_inside_leaves_no_bar_behind(terminal):
    terminal()
    with pytest.raises(KeyError), progress.counting("a", 1), progress.counting("b", 1):
        raise KeyError
    assert not progress._bars
    with progress.counting("c", 1) as advance:
        advance()


def test_a_line_is_printed_above_the_bars(terminal):
    screen = terminal()
    with progress.counting("a", 1):
        progress.say("warning: [b] is not markup")
    assert "warning: [b] is not markup" in screen.getvalue()


def test_a_log_gets_a_line_for_every_note(capsys):
    with progress.counting("evaluate", 2) as advance:
        advance()
        advance("cars")
    assert capsys.readouterr().err == "evaluate: cars, 2/2, 0 s, about 0 s left\n"


def test_a_log_of_unknown_length_says_how_much_is_done(capsys):
    with progress.counting("cars", None) as advance:
        advance("apgd_ce/0")
    assert capsys.readouterr().err == "cars: apgd_ce/0, 1, 0 s\n"


def test_parts_kept_from_a_killed_run_tell_nothing_of_the_time_left(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 5.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.counting("finetune", 10) as advance:
        advance("kept", 6, kept=True)
        advance("step 8", 2)
    assert capsys.readouterr().err.splitlines() == [
        "finetune: kept, 6/10, 1 s",
        "finetune: step 8, 8/10, 5 s, about 5 s left",
    ]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_quiet_leaves_warnings_only(monkeypatch, is_terminal):
    stream = Terminal() if is_terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv(progress.QUIET, "1")
    with progress.counting("a", 1) as advance:
        advance("a note")
    progress.say("as you know")
    progress.say("warning: mind this")
    assert stream.getvalue() == "warning: mind this\n"
