"""What an audit says: how often each check was made, and what it found."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

CHECKS = {
    "lock": "dvc.lock has each stage of dvc.yaml with its command, parameters, inputs and outputs",
    "output": "each output holds what dvc.lock records",
    "input": "each source holds what dvc.lock records",
    "producer": "each input is its producer's output",
    "stray": "no folder that a stage reads holds files that no stage wrote",
    "receipt": "each entry of dvc.lock has the untouched receipt of a run with these inputs",
    "result": "each output in dvc.lock is what the run with these inputs wrote",
    "metrics": "the measured numbers are those of the receipt",
    "store": "the MLflow store can be read",
    "run": "each receipt has a finished MLflow run that says the same",
    "dirty": "each stage ran from a clean tree",
    "code": "the code that ran is that of the recorded commit",
    "environment": "each stage ran in the environment of envs/runtime.txt",
    "device": "stages ran on the device that params.yaml asks for, all on the same",
}


@dataclass(frozen=True)
class Finding:
    """One thing that does not agree, and what to do about it."""

    check: str
    stage: str
    text: str
    remedy: str


@dataclass
class Report:
    """The outcome of an audit."""

    allowed: frozenset[str] = frozenset()
    checked: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stages: int = 0

    def check(self, name: str, stage: str, problem: str | None, remedy: str = "") -> bool:
        """Count one check, and keep what it found.

        Args:
            name: one of :data:`CHECKS`.
            stage: DVC's name of the stage, or what else was looked at.
            problem: what does not agree; None if all is well.
            remedy: what to do about it.

        Returns:
            Whether all is well.
        """
        self.checked[name] += 1
        if problem is not None:
            self.findings.append(Finding(name, stage, problem, remedy))
        return problem is None

    @property
    def ok(self) -> bool:
        """Whether nothing was found but what is allowed."""
        return all(finding.check in self.allowed for finding in self.findings)

    def counts(self) -> dict[str, dict[str, int]]:
        """Count per check.

        Returns:
            Check -> ``checked`` and ``found``, in the order in which they were made.
        """
        found = Counter(finding.check for finding in self.findings)
        return {name: {"checked": self.checked[name], "found": found[name]} for name in CHECKS}

    def plain(self) -> dict[str, Any]:
        """Put everything into JSON-able values.

        Returns:
            ``ok``, ``stages``, ``checks``, ``findings``, ``allowed`` and ``notes``.
        """
        return {
            "ok": self.ok,
            "stages": self.stages,
            "checks": self.counts(),
            "findings": [vars(finding) for finding in self.findings],
            "allowed": sorted(self.allowed),
            "notes": self.notes,
        }


def short(names: Collection[str], most: int = 3) -> str:
    """List some names, and how many more there are.

    Args:
        names: what to list.
        most: how many to write out.

    Returns:
        Words.
    """
    listed = sorted(names)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest
