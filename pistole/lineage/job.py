"""Run one stage of a frozen DAG as DVC would: ``python -m pistole.lineage.job STAGE``.

A job asks DVC nothing and takes no lock, so any number may run at once. It decides as DVC does
whether the stage is changed, once what it reads is there; it removes old outputs, runs the command
in the same shell with the same variables, and leaves a token that says whether it ran.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pistole.errors import UserError
from pistole.files import write_json
from pistole.lineage import frozen
from pistole.lineage.hashing import hash_paths, md5_path, run_key

PATIENCE = float(os.environ.get("PISTOLE_PATIENCE", "60"))  # s until a network file system shows it


def run(root: Path, name: str) -> str:
    """Run a stage, or find that nothing of it has changed.

    Args:
        root: the project's folder.
        name: DVC's name of the stage.

    Returns:
        Why it ran; empty if it did not.

    Raises:
        UserError: the run is not known, an input is missing, the parameters were edited since the
            run began, or the command failed.
    """
    stage = frozen.find(frozen.load(root), name)
    _wait_for(root, stage["deps"])
    _require_same_params(root, stage)
    deps = hash_paths(root, stage["deps"])
    reason = _changed(root, stage, deps)
    token: dict[str, Any] = {"ran": bool(reason)}
    if reason:
        _remove_outs(root, stage)
        _execute(root, stage)
        _require_same_params(root, stage)
        token["run_key"] = run_key(stage["cmd"], deps, stage["params"])
    write_json(root / stage["token"], token)
    return reason


def _wait_for(root: Path, paths: list[str]) -> None:
    """Give a network file system time to show what another machine wrote."""
    end = time.monotonic() + PATIENCE
    while absent := [path for path in paths if not (root / path).exists()]:
        if time.monotonic() > end:
            raise UserError(f"{absent[0]} does not exist: run the stage that writes it")
        time.sleep(0.5)


def _changed(root: Path, stage: frozen.Frozen, deps: dict[str, str]) -> str:
    """Say why DVC would run the stage; empty if it would not."""
    locked = stage["locked"]
    if locked is None:
        return "it has never run"
    if stage["always"]:
        return "it always runs"
    for what in ("cmd", "params"):
        if locked[what] != stage[what]:
            return f"its {what} changed"
    changed = [path for path, digest in deps.items() if locked["deps"].get(path) != digest]
    if changed or locked["deps"].keys() != deps.keys():
        return f"its input {changed[0]} changed" if changed else "its list of inputs changed"
    for out in stage["outs"]:
        path = out["path"]
        if not (root / path).exists() or md5_path(root, path) != locked["outs"].get(path):
            return f"its output {path} is not what dvc.lock has"
    return ""


def _remove_outs(root: Path, stage: frozen.Frozen) -> None:
    """Remove old outputs as DVC does: they may be links into its cache, never to be written to."""
    for out in stage["outs"]:
        path = root / out["path"]
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _execute(root: Path, stage: frozen.Frozen) -> None:
    """Run the commands one after the other, in DVC's shell and with its variables."""
    name = stage["name"]
    shell = os.environ.get("SHELL") or "/bin/sh"
    options = {"bash": ["--noprofile", "--norc"], "zsh": ["--no-rcs"]}.get(Path(shell).name, [])
    variables = {
        "DVC_STAGE": name,
        "DVC_ROOT": str(root),
        "PISTOLE_DAG": str(root / frozen.TABLE),
        "PISTOLE_ENGINE": "snakemake",
    }
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith(("http://", "https://")):
        # A database file is no place for many writers: the starting process reads the receipts.
        variables["PISTOLE_TRACKING"] = "receipts"
    commands = stage["cmd"][0].splitlines() if len(stage["cmd"]) == 1 else stage["cmd"]
    for command in commands:
        line = [shell, *options, "-c", command]
        done = subprocess.run(line, cwd=root / stage["wdir"], env=os.environ | variables)
        if done.returncode:
            raise UserError(f"{name}: `{command}` ended with status {done.returncode}: see its log")


def _require_same_params(root: Path, stage: frozen.Frozen) -> None:
    """Refuse a stage whose parameters were edited since the run began: it reads the new ones."""
    for file, values in stage["params"].items():
        now = _read_params(root / file)
        for key, value in values.items() if now is not None else ():
            found = _look_up(now, key)
            if found != value:
                began = f"was {json.dumps(value)} when the run began and is {json.dumps(found)} now"
                raise UserError(f"{stage['name']}: {file}: {key} {began}: start the run again")


def _read_params(path: Path) -> Any:
    """Read a parameter file; None if it is of a kind that only DVC reads."""
    if path.suffix not in (".yaml", ".yml", ".json"):
        return None
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(path) if path.is_file() else {}


def _look_up(values: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return None
        values = values[part]
    return values


def main() -> None:
    """Run the stage that the command line names; status 2 if it cannot or fails."""
    name = sys.argv[1]
    try:
        reason = run(Path.cwd(), name)
    except UserError as error:
        sys.stderr.write(f"pistole: {error}\n")
        sys.exit(2)
    said = f"ran, as {reason}" if reason else "did not change: what it reads has the same content"
    sys.stdout.write(f"{name} {said}\n")


if __name__ == "__main__":
    main()
