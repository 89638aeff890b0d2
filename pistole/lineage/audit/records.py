"""Receipts against dvc.lock, against what was measured, and against MLflow."""

from typing import Any

from pistole.errors import UserError
from pistole.lineage import receipts
from pistole.lineage.audit.evidence import Evidence
from pistole.lineage.audit.findings import Report, short
from pistole.lineage.store import params_of, tags_of

LARGEST = 1.7e308  # MLflow's databases hold infinity as the largest float
TRACK = "pistole track"


def check_results(evidence: Evidence, report: Report) -> None:
    """Compare the outputs in dvc.lock with those of the run that had these inputs.

    Args:
        evidence: what there is.
        report: takes the findings.
    """
    for stage, receipt in evidence.receipts.items():
        outs, written = evidence.lock[stage]["outs"], receipt["outs"]
        other = [p for p in outs.keys() | written.keys() if outs.get(p) != written.get(p)]
        problem = (
            f"the run with these inputs did not write {short(other)} as dvc.lock records it: "
            f"edited and committed by hand, or not repeatable"
        )
        remedy = f"dvc repro --force --single-item {stage}"
        report.check("result", stage, problem if other else None, remedy)


def check_metrics(evidence: Evidence, report: Report) -> dict[str, dict[str, Any]]:
    """Compare the files of measured numbers with the receipts.

    Args:
        evidence: what there is.
        report: takes the findings.

    Returns:
        Stage -> what it measured, where that is untouched.
    """
    values = {}
    for stage, receipt in evidence.receipts.items():
        problem = None
        try:
            values[stage] = receipts.measured(evidence.root, receipt)
        except UserError as error:
            problem = str(error).partition(": ")[0]
        report.check("metrics", stage, problem, f"dvc repro --force --single-item {stage}")
    return values


def check_runs(
    evidence: Evidence,
    runs: list[dict[str, Any]],
    measured: dict[str, dict[str, Any]],
    report: Report,
) -> None:
    """Compare each receipt with its MLflow run.

    Args:
        evidence: what there is.
        runs: of :func:`pistole.lineage.runs.read_runs`.
        measured: what the stages measured.
        report: takes the findings.
    """
    by_receipt: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_receipt.setdefault(run["tags"].get("pistole.receipt", ""), []).append(run)
    for stage, receipt in evidence.receipts.items():
        found = by_receipt.get(receipt["id"], [])
        alive = [run for run in found if not run["deleted"]]
        if not alive:
            text, remedy = "no MLflow run shows the receipt", TRACK
            if found:
                text = f"the MLflow run {found[0]['run_id']} is deleted"
                remedy = f"mlflow runs restore --run-id {found[0]['run_id']}"
            report.check("run", stage, text, remedy)
        for run in alive:
            _check_run(stage, receipt, run, report)
            if stage in measured:
                _check_values(stage, measured[stage], run, report)
        _note_others(stage, receipt, runs, report)


def _check_run(stage: str, receipt: dict[str, Any], run: dict[str, Any], report: Report) -> None:
    tags, params = tags_of(receipt), params_of(receipt)
    other = [f"tag {tag}" for tag, value in tags.items() if run["tags"].get(tag) != value]
    names = params.keys() | run["params"].keys()
    other += [f"param {name}" for name in names if run["params"].get(name) != params.get(name)]
    other += ["status"] if run["status"] != "FINISHED" else []
    problem = f"MLflow run {run['run_id']} differs from its receipt in {short(other)}"
    report.check("run", stage, problem if other else None, _again(run))


def _check_values(
    stage: str, measured: dict[str, Any], run: dict[str, Any], report: Report
) -> None:
    expected = {_value(*row) for row in measured["metrics"]}
    found = {_value(*row) for row in run["metrics"]}
    names = {row[0] for row in expected ^ found}
    problem = f"MLflow run {run['run_id']} has other values of {short(names)} than were measured"
    report.check("metrics", stage, problem if names else None, _again(run))


def _again(run: dict[str, Any]) -> str:
    return f"mlflow runs delete --run-id {run['run_id']}, then {TRACK}"


def _value(name: str, value: float | str, step: int, time: int) -> tuple[str, str, int, int]:
    number = float(value)
    if abs(number) > LARGEST:
        number = float("inf") if number > 0 else float("-inf")
    return name, repr(number), step, time


def _note_others(
    stage: str, receipt: dict[str, Any], runs: list[dict[str, Any]], report: Report
) -> None:
    """Say if another finished run with the same inputs wrote something else."""
    outs = tags_of(receipt).get("dvc.outs")
    others = [
        run["run_id"]
        for run in runs
        if run["tags"].get("dvc.run_key") == receipt["run_key"]
        and run["status"] == "FINISHED"
        and not run["deleted"]
        and run["tags"].get("dvc.outs") != outs
    ]
    if others:
        report.notes.append(f"{stage}: run {short(others)} had the same inputs, but other outputs")
