"""Does everything agree: files, dvc.lock, receipts, MLflow runs, code and environment."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pistole.errors import require_choice
from pistole.lineage.audit import circumstances, content, records
from pistole.lineage.audit.evidence import Evidence, gather
from pistole.lineage.audit.findings import CHECKS, Finding, Report
from pistole.lineage.runs import Reader

__all__ = ["CHECKS", "Finding", "Report", "audit"]


def audit(root: str | Path, uri: str, allow: Collection[str] = ()) -> Report:
    """Check a project; nothing is changed on disk.

    Args:
        root: the project's folder.
        uri: address of the MLflow store.
        allow: checks whose findings are told but are no failure.

    Returns:
        What was checked and what was found.

    Raises:
        UserError: the folder is no DVC project, its dvc.yaml is not valid, or no check is so named.
    """
    for name in allow:
        require_choice("check to allow", name, CHECKS)
    report = Report(frozenset(allow))
    reader = Reader(uri)
    try:
        evidence = gather(Path(root).resolve(), report)
        if evidence is not None:
            content.check_lock(evidence, report)
            content.check_outputs(evidence, report)
            content.check_inputs(evidence, report)
            content.check_strays(evidence, report)
            records.check_results(evidence, report)
            measured = records.check_metrics(evidence, report)
            circumstances.check_dirty(evidence, report)
            circumstances.check_code(evidence, report)
            circumstances.check_environment(evidence, report)
            circumstances.check_device(evidence, report)
            runs = _read(reader, evidence, uri, report)
            if runs is not None:
                records.check_runs(evidence, runs, measured, report)
    finally:
        reader.close()
    return report


def _read(
    reader: Reader, evidence: Evidence, uri: str, report: Report
) -> list[dict[str, Any]] | None:
    try:
        runs = reader.read({receipt["id"] for receipt in evidence.receipts.values()})
    except RuntimeError as error:
        report.check("store", uri, str(error), "set MLFLOW_TRACKING_URI, or pistole track")
        return None
    report.check("store", uri, None)
    return runs
