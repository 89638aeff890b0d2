"""What a check of the doctor says."""

from dataclasses import asdict, dataclass

OK, WARNING, FAILED = "ok", "warning", "failed"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what was looked at, such as ``packages``.
        state: ``ok``; ``warning``: a run works, but look at it; or ``failed``: it would not.
        text: what was found.
        remedy: what to do; empty if nothing, or if the text says it.
    """

    check: str
    state: str
    text: str
    remedy: str = ""

    def plain(self) -> dict[str, str]:
        """Return the finding as JSON-able values."""
        return asdict(self)


def lines(findings: list[Finding]) -> list[str]:
    """Write findings as text.

    Args:
        findings: what was found.

    Returns:
        A line per finding, and one per remedy.
    """
    written = []
    for finding in findings:
        written.append(f"{finding.state:<8} {finding.check:<9} {finding.text}")
        if finding.remedy:
            written.append(f"{'':<18} remedy: {finding.remedy}")
    return written
