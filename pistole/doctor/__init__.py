"""Whether a run can start here: the environment, the machine, what it needs, what others left."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pistole.doctor.finding import FAILED, Finding
from pistole.doctor.leftovers import check_locks
from pistole.doctor.needs import check_needs
from pistole.doctor.packages import check_packages, check_python
from pistole.doctor.store import check_store
from pistole.doctor.tree import check_git, check_project
from pistole.errors import UserError

CHECKS: dict[str, Callable[[Path], Iterator[Finding]]] = {
    "project": check_project,
    "python": check_python,
    "packages": check_packages,
    "needs": check_needs,
    "locks": check_locks,
    "git": check_git,
    "store": check_store,
}


@dataclass(frozen=True)
class Diagnosis:
    """What was looked at and found.

    Attributes:
        findings: in the order of the checks.
    """

    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """Whether nothing stands in the way of a run."""
        return all(finding.state != FAILED for finding in self.findings)

    def plain(self) -> dict[str, Any]:
        """Return the diagnosis as JSON-able values."""
        return {"ok": self.ok, "checks": [finding.plain() for finding in self.findings]}


def diagnose(project: Path) -> Diagnosis:
    """Look at everything; what cannot be looked at is a finding too.

    Args:
        project: folder of the DVC project.

    Returns:
        The diagnosis.
    """
    findings: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            findings += check(project)
        except UserError as error:
            findings.append(Finding(name, FAILED, str(error), ""))
    return Diagnosis(findings)
