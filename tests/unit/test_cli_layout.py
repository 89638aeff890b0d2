"""--help: every command has its place and an example that the command line takes."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from ruamel.yaml import YAML

from pistole.cli import app, completing
from pistole.cli.layout import EXAMPLES, PANELS, STAGES
from tests.e2e.micro import ROOT, environment, status

WIDTH = 70  # an example is one line of a terminal of 80 columns
SLOW = ("torch", "pydantic", "mlflow", "dvc", "open_clip", "pandas", "ruamel", "rich.progress")
LATE = ("scipy.stats", "torchattacks", "matplotlib", "mlflow", "dvc")


def commands(group: typer.core.TyperGroup, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every command with its whole name; groups are not themselves commands."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


ALL = dict(commands(typer.main.get_command(app)))


def test_the_first_panel_is_the_dag():
    dag = YAML(typ="safe", pure=True).load(ROOT / "dvc.yaml")["stages"]
    assert list(PANELS[STAGES]) == list(dag)


def test_every_command_has_a_panel_and_an_example():
    assert set(EXAMPLES) == set(ALL)
    assert {name for names in PANELS.values() for name in names} == {n.split()[0] for n in ALL}


def test_help_lists_the_commands_in_the_order_of_the_panels(capsys, monkeypatch):
    monkeypatch.setenv("TERMINAL_WIDTH", "100")
    with pytest.raises(SystemExit):
        app(["--help"])
    shown = capsys.readouterr().out
    places = [shown.index(f"│ {name} ") for names in PANELS.values() for name in names]
    assert places == sorted(places)
    assert all(panel in shown for panel in PANELS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_parses(name: str):
    example = EXAMPLES[name]
    assert len(example) <= WIDTH
    program, *arguments = shlex.split(example)
    words = name.split()
    assert [program, *arguments[: len(words)]] == ["pistole", *words]
    ALL[name].make_context(name, arguments[len(words) :])


def test_help_of_a_command_shows_its_example(capsys):
    with pytest.raises(SystemExit):
        app(["data", "index", "--help"])
    assert f"Example: {EXAMPLES['data index']}" in capsys.readouterr().out


@pytest.mark.parametrize("group", ["data", "profile", "statement"])
def test_help_of_a_group_shows_an_example(group: str, capsys):
    with pytest.raises(SystemExit):
        app([group, "--help"])
    assert f"Example: pistole {group} " in capsys.readouterr().out


def run(code: str, **variables: str) -> str:
    command = [sys.executable, "-c", code]
    env = environment() | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def test_help_imports_nothing_slow():
    code = f"import sys, pistole.cli; print([m for m in {SLOW} if m in sys.modules])"
    assert run(code) == "[]\n"


def test_stages_begin_without_what_only_their_end_or_a_search_needs():
    checks = [f"theory.{name}" for name in ("agreement", "conflict_map", "merge_path", "pci_trace")]
    names = ", ".join(f"pistole.stages.{name}" for name in ("evaluate", "stability", *checks))
    code = f"import sys, {names}; print([m for m in {LATE} if m in sys.modules])"
    assert run(code) == "[]\n"


def test_the_table_is_shown_without_waiting_for_torch():
    slow = ("torch", "mlflow", "dvc", "open_clip", "scipy.stats")
    code = f"import sys, pistole.stages.show; print([m for m in {slow} if m in sys.modules])"
    assert run(code) == "[]\n"


def test_an_explanation_is_whole_on_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert status("params", str(ROOT / "params.yaml"), "--explain") == 0
    shown = capsys.readouterr().out
    assert "\N{HORIZONTAL ELLIPSIS}" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_script_that_completes_is_for_the_program(capsys, monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert status("--show-completion", "bash") == 0
    assert capsys.readouterr().out.endswith("complete -o default -F _pistole_completion pistole\n")


def completed(line: str) -> list[str]:
    """What bash is offered for the last word of a line, in the project's folder."""
    code = (
        "import sys; sys.argv[0] = 'pistole'; from pistole.cli import app; app(prog_name='pistole')"
    )
    last = str(len(line.split(" ")) - 1)
    asked = {"_PISTOLE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": last}
    return run(code, **asked).split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("pistole ma", ["masks"]),
        ("pistole finetune ", ["natural", "robust"]),
        ("pistole vectors n", ["natural"]),
        ("pistole merge uni", ["uniform_shrink"]),
        ("pistole merge --method task_a", ["task_analogy", "task_arithmetic"]),
        ("pistole evaluate na", ["natural"]),
        ("pistole theory li", ["linear_frontier"]),
        ("pistole prepare concrete", ["concrete", "concrete_am"]),
        ("pistole data index cl", ["clutter"]),
        ("pistole profile use imagenet-vitb", ["imagenet-vitb32"]),
        ("pistole card wise_ft_", ["wise_ft_matched"]),
    ],
)
def test_the_shell_completes(line: str, offered: list[str], monkeypatch):
    monkeypatch.chdir(ROOT)
    assert completed(line) == offered


@pytest.mark.parametrize("text", [None, "", "methods: [", "methods: 3", "- methods"])
def test_without_a_readable_file_nothing_is_offered(text: str | None, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("params.yaml").write_text(text)
    assert completing.named("methods")() == []
