"""Do what a page of the documentation says, block by block."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests import pages
from tests.e2e.micro import ROOT, environment, status

Change = Callable[[dict[str, Any]], None]


def change(values: dict[str, Any], changes: dict[str, Any]) -> None:
    """Write what a page's YAML says into the values of params.yaml; the others stay."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            change(values[key], value)
        else:
            values[key] = value


def follow(
    page: str,
    heading: str = "",
    *,
    kinds: Collection[str] = ("yaml", "python", "console"),
    adapt: Change | None = None,
    **names: Any,
) -> dict[str, Any]:
    """Run the blocks of a page, or of one of its sections.

    ``pistole`` runs in this process. ``adapt`` changes what the page's YAML made of params.yaml,
    and ``names`` are there for the page's Python; the names after it are returned.
    """
    yaml = YAML()
    said = ""
    for kind, text in pages.fenced(pages.section(ROOT / page, heading)):
        if kind not in kinds:
            continue
        if kind == "yaml":
            values = yaml.load(Path("params.yaml"))
            change(values, yaml.load(text))
            if adapt is not None:
                adapt(values)
            yaml.dump(values, Path("params.yaml"))
        elif kind == "python":
            exec(compile(text, page, "exec"), names)
        else:
            for words in words_of(text, said):
                run(words)
            said += text
    return names


def run(words: list[str]) -> None:
    """Run a command of a page: ``pistole`` in this process."""
    if words[0] == "pistole":
        assert status(*words[1:]) == 0, shlex.join(words)
    else:
        subprocess.run(words, check=True, env=environment())


PROGRAMS = ("pistole", "ln", "openssl")
# A function of each program's name that prints its words, each ended by \x1f, and then \x1e.
TELL = "\n".join(
    f'{name}() {{ printf "%s\\x1f" {name} "$@"; printf "\\x1e"; }}' for name in PROGRAMS
)


def words_of(console: str, before: str = "") -> list[list[str]]:
    """What programs the lines after ``$`` of a block call, as bash sees it.

    Loops and variables are expanded, variables that were set in the text ``before`` too.
    """
    variables = re.findall(r"^\$ (\w+=.*)$", before, re.MULTILINE)
    script = "\n".join(["set -eu", TELL, *variables, lines_of(console)])
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    calls = done.stdout.split("\x1e")[:-1]
    return [call.split("\x1f")[:-1] for call in calls]


def lines_of(console: str) -> str:
    """A block without its prompts."""
    return re.sub(r"^\$ ", "", console, flags=re.MULTILINE)


def in_shell(script: str, folder: Path, bin_folder: Path, **variables: str) -> str:
    """Let bash run what a page says, as a user's shell does, with the programs that are tested."""
    bin_folder.mkdir(exist_ok=True)
    for name in ("pistole", "dvc"):
        program = bin_folder / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m {name} "$@"\n')
        program.chmod(0o755)
    path = os.pathsep.join([str(bin_folder), os.environ["PATH"]])
    told = environment() | {"PATH": path, "PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(
        ["bash", "-euc", script], cwd=folder, env=told, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
