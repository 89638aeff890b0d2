"""What belongs together in the repository is together: versions, hooks, generated files."""

import hashlib
import re
import runpy
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import pistole
from tests.e2e.micro import ROOT

SEMVER = r"\d+\.\d+\.\d+"
GENERATE = runpy.run_path(str(ROOT / "envs/generate.py"))


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def yaml(name: str) -> dict:
    return YAML(typ="safe", pure=True).load(ROOT / name)


def test_there_is_one_version():
    declared = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    assert re.fullmatch(SEMVER, declared)
    assert pistole.__version__ == declared
    assert str(yaml("CITATION.cff")["version"]) == declared
    released = re.findall(rf"^## \[({SEMVER})\]", read("CHANGELOG.md"), re.MULTILINE)
    assert "## [Unreleased]" in read("CHANGELOG.md") or released
    assert released[:1] in ([], [declared])
    named = re.findall(rf"\bpistole[ =@v]+({SEMVER})", read("README.md"))
    assert set(named) <= {declared}


def test_every_hook_is_a_program_of_the_environment():
    (repository,) = yaml(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    tools = set(read("envs/dev.in").split()) | {"pistole", "python"}
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].split()[0] in tools, hook["id"]


def test_environment_files_are_made_from_the_lock():
    digest = hashlib.sha256((ROOT / "envs/runtime.txt").read_bytes()).hexdigest()
    for path, text in GENERATE["texts"]().items():
        assert read(path) == text, f"run python envs/generate.py: {path}"
        assert digest in text
        assert "not built" in text.lower()
    conda = yaml("envs/environment.yaml")
    assert {"pip": ["-r runtime.txt"]} in conda["dependencies"]
    assert "--require-hashes" in read("envs/pistole.def")


def test_another_lock_makes_the_environment_files_stale(tmp_path, monkeypatch, capsys):
    (tmp_path / "envs").mkdir()
    for name in ("pyproject.toml", "envs/runtime.txt"):
        (tmp_path / name).write_text(read(name))
    monkeypatch.setattr("sys.argv", ["generate.py"])
    assert GENERATE["main"](tmp_path) == 0
    monkeypatch.setattr("sys.argv", ["generate.py", "--check"])
    assert GENERATE["main"](tmp_path) == 0
    (tmp_path / "envs/runtime.txt").write_text("other==1\n")
    assert GENERATE["main"](tmp_path) == 1
    assert capsys.readouterr().err.count("run `python envs/generate.py`") == 2


@pytest.mark.parametrize("name", re.findall(r"^([a-z-]+):.*##", read("Makefile"), re.MULTILINE))
def test_every_target_is_phony_and_told(name: str):
    phony = re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)[1].split()
    assert name in phony
    assert f"`make {name}`" in read("docs/usage.md") + read("CONTRIBUTING.md")


def test_the_package_ships_its_types():
    data = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]["package-data"]["pistole"]
    assert {"py.typed", "*.pyi"} <= set(data)
    assert Path(pistole.__file__).with_name("py.typed").is_file()
