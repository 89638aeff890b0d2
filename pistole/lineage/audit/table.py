"""An audit as text."""

from pistole.lineage.audit.findings import CHECKS, Report


def text(report: Report) -> str:
    """Write the outcome: a table of checks, then each finding with its remedy.

    Args:
        report: the outcome.

    Returns:
        Lines.
    """
    lines = [f"{'check':<12} {'made':>5} {'found':>5}  what it means"]
    for name, count in report.counts().items():
        found = f"{count['found']:>5}" if count["found"] else "    -"
        lines.append(f"{name:<12} {count['checked']:>5} {found}  {CHECKS[name]}")
    for finding in report.findings:
        word = "allowed" if finding.check in report.allowed else "FAIL"
        lines += ["", f"{word} {finding.check}: {finding.stage}: {finding.text}"]
        lines += [f"     remedy: {finding.remedy}"] if finding.remedy else []
    lines += ["", *(f"note: {note}" for note in report.notes)]
    many = len(report.findings)
    outcome = "everything agrees" if report.ok else "something does not agree"
    if report.ok and many:
        outcome = "nothing but what is allowed was found"
    lines.append(f"{report.stages} stages audited, {many} findings: {outcome}")
    return "\n".join(lines)
