"""A DAG of six small stages that leave receipts, and both engines to run it with.

A stage writes what it read and its parameter. ``raw.txt`` is its only source; ``check`` reads the
whole of params.yaml and always writes the same, so that a changed parameter runs it alone again,
with what reads that parameter. ``fail/STAGE`` makes a stage fail, ``slow/STAGE`` makes it wait
until that file is gone, and ``edit/STAGE`` holds the name of a file that it edits at its end.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.micro import ROOT

OURS = ("DVC_", "MLFLOW_", "PISTOLE_", "SLURM_")
STAGE = """
import sys, time
from pathlib import Path
from ruamel.yaml import YAML
from pistole.lineage.tracking import stage_run

name, out, *reads = sys.argv[1:]
params = YAML(typ="safe").load(Path("params.yaml"))
with stage_run(name) as run:
    text = "".join(Path(path).read_text() for path in reads)
    text += f"{name} {params.get(name.partition('@')[0], '')}\\n"
    if Path("fail", name).exists():
        sys.exit(f"{name} was told to fail")
    while Path("slow", name).exists():
        Path("slow", f"{name}.waits").touch()
        time.sleep(0.5)
    place = Path(out)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    run.metric("length", len(text))
    for step in range(params["steps"]):
        run.metric("loss", 1 / (step + 1), step)
if Path("edit", name).exists():
    with Path(Path("edit", name).read_text()).open("a") as stream:
        stream.write("edited")
"""
DVC_YAML = """
stages:
  check:
    cmd: PYTHON stage.py check ok.txt
    deps: [stage.py, params.yaml]
    outs: [ok.txt]
  data:
    matrix: {task: "${tasks}"}
    cmd: PYTHON stage.py data@${item.task} data/${item.task}/x.txt raw.txt
    deps: [stage.py, raw.txt, ok.txt]
    params: [data]
    outs: ["data/${item.task}": {type: dir}]
    meta: {resources: {mem_mb: 200, runtime: 5, cpus_per_task: 1}}
  train:
    matrix: {task: "${tasks}"}
    cmd: PYTHON stage.py train@${item.task} models/${item.task}.txt data/${item.task}/x.txt
    deps: [stage.py, "data/${item.task}/x.txt"]
    params: [train]
    outs: ["models/${item.task}.txt"]
    meta: {resources: {mem_mb: 200, runtime: 5, gpu: 1}}
  table:
    cmd: PYTHON stage.py table report/table.csv models/a.txt models/b.txt
    deps: [stage.py, models]
    params: [table]
    outs: [report/table.csv: {cache: false}]
"""
STAGES = ["check", "data@a", "data@b", "table", "train@a", "train@b"]


def make_project(folder: Path, tasks: str = "a, b", **changes: str) -> Path:
    """Make a DVC project without git of the small DAG."""
    from dvc.repo import Repo

    folder.mkdir(parents=True, exist_ok=True)
    with Repo.init(str(folder), no_scm=True) as repo, repo.config.edit() as config:
        config["core"] |= {"analytics": False, "check_update": False}
    (folder / "stage.py").write_text(STAGE)
    (folder / "dvc.yaml").write_text(DVC_YAML.replace("PYTHON", sys.executable))
    (folder / "raw.txt").write_text("raw\n")
    write_params(folder, tasks=f"[{tasks}]", **changes)
    return folder


def write_params(folder: Path, **changes: str) -> None:
    """Write params.yaml, whose values are YAML."""
    values = {"tasks": "[a, b]", "steps": "1", "data": "1", "train": "1", "table": "1"}
    values |= changes
    lines = [f"{name}: {value}\n" for name, value in values.items()]
    (folder / "params.yaml").write_text("".join(lines))


def environment(**variables: str) -> dict[str, str]:
    """Return the environment of a user who has set nothing of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    # Long warnings of libraries are no concern of these tests, their output is.
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "TERM": "dumb"} | variables


def call(folder: Path, *command: str, **variables: str) -> tuple[int, str]:
    """Run a module of this Python in a project and return its status and what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def snakemake(folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Run ``snakemake`` with the project's own Snakefile."""
    snakefile = str(ROOT / "workflow/Snakefile")
    return call(folder, "snakemake", "--snakefile", snakefile, *arguments, **variables)


def run_locally(folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Run ``snakemake`` with the local profile; MLflow, which takes seconds, is left out."""
    variables = {"PISTOLE_TRACKING": "receipts"} | variables
    profile = str(ROOT / "workflow/profiles/local")
    return snakemake(folder, "--profile", profile, *arguments, **variables)


def repro(folder: Path) -> tuple[int, list[str], str]:
    """Run ``dvc repro`` without MLflow and return its status, the stages that ran, and output."""
    status, output = call(folder, "dvc", "repro", PISTOLE_TRACKING="receipts")
    return status, re.findall("Running stage '(.*)':", output), output


def ran(folder: Path) -> list[str]:
    """Return the stages that the last cluster run has run."""
    tokens = (folder / ".pistole/cluster/done").glob("*/*.json")
    return sorted(token.stem for token in tokens if json.loads(token.read_text())["ran"])


def logs(folder: Path) -> str:
    """Return what the jobs of the last run printed, for the message of a failed test."""
    files = sorted((folder / ".pistole/cluster/logs").glob("*.log"))
    return "\n".join(f"{file.name}: {file.read_text()}" for file in files)
