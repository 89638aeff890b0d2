"""The frozen DAG of one cluster run: all that its jobs know. Imports nothing heavy.

The process that starts a run asks DVC once which stages are stale and writes them down; a job reads
that file, never DVC. Every run has its own tokens, one for each finished job, so no clock decides
what runs.
"""

import re
import shutil
from pathlib import Path

from pistole.errors import UserError, require_choice
from pistole.files import read_json, write_json
from pistole.lineage.dag import Stage
from pistole.lineage.lockfile import Entry

FOLDER = Path(".pistole/cluster")
TABLE = FOLDER / "dag.json"
TOKENS = FOLDER / "done"


class Frozen(Stage):
    """One stage as it was when the run began."""

    stale: bool  # DVC would run it, or what it reads may be written anew
    locked: Entry | None  # its entry in dvc.lock
    after: list[str]  # tokens of the stale stages that it reads from
    sources: list[str]  # dependencies that this run leaves alone
    token: str  # file that its job leaves


def start(root: str | Path, table: list[Frozen]) -> None:
    """Write the table, whole or not at all, and forget the tokens of earlier runs.

    Args:
        root: the project's folder.
        table: the stages of the run.
    """
    shutil.rmtree(Path(root) / TOKENS, ignore_errors=True)
    write_json(Path(root) / TABLE, table)


def load(root: str | Path) -> list[Frozen]:
    """Read the table of the run that was started last.

    Args:
        root: the project's folder.

    Returns:
        Its stages.

    Raises:
        UserError: there was no run.
    """
    return read_json(Path(root) / TABLE, "start a run with snakemake")


def find(table: list[Frozen], name: str) -> Frozen:
    """Look up a stage.

    Args:
        table: the stages of a run.
        name: DVC's name of the stage.

    Returns:
        The stage.

    Raises:
        UserError: the run has no such stage.
    """
    for stage in table:
        if stage["name"] == name:
            return stage
    raise UserError(f"{TABLE} has no stage {name}: start the run again")


def rule_name(stage: str) -> str:
    """Make a Snakemake rule's name of a stage's name: letters, digits and underscores.

    Args:
        stage: DVC's name of the stage.

    Returns:
        The name, such as ``merge_pistole``.
    """
    return re.sub(r"\W", "_", stage)


def log_of(stage: str) -> str:
    """Name the file of what a stage prints.

    Args:
        stage: DVC's name of the stage.

    Returns:
        Its path in the project.
    """
    return str(FOLDER / "logs" / f"{stage}.log")


def benchmark_of(stage: str) -> str:
    """Name the file of a stage's time and memory.

    Args:
        stage: DVC's name of the stage.

    Returns:
        Its path in the project.
    """
    return str(FOLDER / "benchmarks" / f"{stage}.tsv")


def threads_of(stage: Stage) -> int:
    """Read how many cores a stage wants.

    Args:
        stage: the stage, with ``meta.resources.cpus_per_task``.

    Returns:
        The number; 1 if it says none.
    """
    return stage["meta"].get("resources", {}).get("cpus_per_task", 1)


def resources_of(stage: Stage, gpu_request: str) -> dict[str, int | str]:
    """Read what else a stage wants of a machine.

    Args:
        stage: the stage, with ``meta.resources``: mem_mb, runtime (minutes), gpu.
        gpu_request: ``gpu`` for clusters that take ``--gpus=N``, ``gres`` for ``--gres=gpu:N``.

    Returns:
        Resources of a Snakemake rule.

    Raises:
        UserError: the request is neither of them.
    """
    require_choice("gpu_request", gpu_request, ("gpu", "gres"))
    wanted = dict(stage["meta"].get("resources", {}))
    wanted.pop("cpus_per_task", None)
    gpus = wanted.get("gpu")
    if gpus and gpu_request == "gres":
        del wanted["gpu"]
        wanted["gres"] = f"gpu:{gpus}"
    return wanted


def last(root: str | Path) -> list[Frozen]:
    """Read the stages that the last run has finished, to report on them.

    Args:
        root: the project's folder.

    Returns:
        The stages; none if there was no run.
    """
    if not (Path(root) / TABLE).is_file():
        return []
    return [stage for stage in load(root) if (Path(root) / stage["token"]).is_file()]


def report_files() -> dict[str, str]:
    """List what Snakemake's report shows of a finished run in this folder.

    Returns:
        Path -> category; parameters, the table and every figure.
    """
    figures = [*Path("report/figures").glob("*.svg"), *Path("report/figures").glob("*.png")]
    found = {"params.yaml": "Parameters", "report/table.csv": "Results"}
    found |= {str(path): "Figures" for path in sorted(figures)}
    return {path: category for path, category in found.items() if Path(path).is_file()}
