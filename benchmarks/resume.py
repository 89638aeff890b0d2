"""Kill a stage with SIGKILL, again and again, and see that it ends with the bytes of a whole run.

    python -m benchmarks.resume FOLDER --stage evaluate@robust --after 30 --after 30
    python -m benchmarks.resume FOLDER --stage finetune@natural --after 60

FOLDER is a copy of a finished project: the stage's outputs in it are made again, twice. The first
run is left alone; the second is killed ``--after`` seconds, once for each, and then goes on to its
end. The log says what each run printed about going on, what it left, and compares sha256 of every
file of the outputs. Exit status 1 if one differs.
"""

import contextlib
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.seeds import leave_no_record
from pistole.files import sha256_file
from pistole.lineage.dag import load_under
from pistole.stages.runtime import RESUME

TOLD = "kept from a killed run"


def main(
    folder: Path,
    stage: Annotated[str, typer.Option(help="its name in DVC")],
    after: Annotated[list[float], typer.Option(help="seconds until SIGKILL")],
) -> None:
    """Run the stage whole, then killed, and compare."""
    leave_no_record()
    with contextlib.chdir(folder):
        found = {s["name"]: s for s in load_under("dvc.yaml", Path("params.yaml"))}[stage]
        command = [sys.executable, "-m", "pistole", *shlex.split(found["cmd"][0])[1:]]
        outs = [Path(out["path"]) for out in found["outs"]]
        shutil.rmtree(RESUME, ignore_errors=True)
        _remove(outs)
        _run(command, "whole")
        whole = _digests(outs)
        _remove(outs)
        for seconds in after:
            _run(command, "killed", seconds)
            left = [str(out) for out in outs if out.exists()]
            states = [p for p in RESUME.rglob("*") if p.is_file()]
            print(f"  outputs there: {left or 'none'}; state kept: {len(states)} files")
        _run(command, "resumed")
        resumed = _digests(outs)
    for path in sorted(whole.keys() | resumed.keys()):
        same = whole.get(path) == resumed.get(path)
        print(f"{path}: {whole.get(path, 'absent')[:16]} {'same' if same else 'DIFFERS'}")
    raise typer.Exit(int(whole != resumed))


def _run(command: list[str], what: str, seconds: float | None = None) -> None:
    begun, ended = time.monotonic(), "ended"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        told, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        told, _ = process.communicate()
        ended = "SIGKILL"
    print(f"{what}: {ended} after {time.monotonic() - begun:.1f} s, exit {process.returncode}")
    for line in told.splitlines():
        if TOLD in line:
            print(f"  {line.strip()}")
    if ended == "ended" and process.returncode:
        raise SystemExit(told)
    if ended == "ended" and seconds is not None:
        raise SystemExit(f"the stage ended before {seconds:g} s: give --after a smaller number")


def _digests(outs: list[Path]) -> dict[str, str]:
    files = [p for out in outs for p in ([out] if out.is_file() else out.rglob("*")) if p.is_file()]
    return {str(path): sha256_file(path) for path in files}


def _remove(outs: list[Path]) -> None:
    for out in outs:
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)


if __name__ == "__main__":
    typer.run(main)
