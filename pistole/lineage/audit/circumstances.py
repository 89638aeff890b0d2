"""With what the stages ran: commit, environment and device."""

import re
from collections import Counter
from typing import Any

from pistole.files import sha256_file
from pistole.lineage import code
from pistole.lineage.audit.evidence import Evidence
from pistole.lineage.audit.findings import Report, short
from pistole.lineage.environment import LOCK
from pistole.lineage.paths import overlapping

PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def check_dirty(evidence: Evidence, report: Report) -> None:
    """Say which stages ran with changes that no commit has.

    Args:
        evidence: what there is.
        report: takes the findings.
    """
    for stage, receipt in evidence.receipts.items():
        changed = receipt["code"]["changed"]
        problem = f"ran from a dirty tree: {short(changed)} differed from the commit"
        remedy = f"git commit, then dvc repro --force --single-item {stage}"
        report.check("dirty", stage, problem if changed else None, remedy)


def check_code(evidence: Evidence, report: Report) -> None:
    """Compare each input that git keeps with its content at the commit of the run.

    Args:
        evidence: what there is.
        report: takes the findings.
    """
    owners = [out["path"] for s in evidence.stages.values() if not s["frozen"] for out in s["outs"]]
    commits: dict[str, code.Commit | None] = {}
    for stage, receipt in evidence.receipts.items():
        name = receipt["code"]["commit"]
        remedy = f"commit the code, then dvc repro --force --single-item {stage}"
        if name is None:
            report.check("code", stage, "ran outside of git: no commit is recorded", remedy)
            continue
        if name not in commits:
            commits[name] = code.Commit.open(evidence.root, name)
        commit = commits[name]
        if commit is None:
            text = f"commit {name[:12]} is not in this repository"
            report.check("code", stage, text, "git fetch --unshallow, or fetch its branch")
            continue
        kept = [p for p in receipt["deps"] if p not in code.RECORDED and not overlapping(p, owners)]
        at_commit = {path: commit.md5(path) for path in kept}
        other = [p for p, md5 in at_commit.items() if md5 is not None and md5 != receipt["deps"][p]]
        problem = f"{short(other)} at commit {name[:12]} is not what ran"
        report.check("code", stage, problem if other else None, remedy)


def check_environment(evidence: Evidence, report: Report) -> None:
    """Compare the environment of each run with the lock, and with that of the other runs.

    Args:
        evidence: what there is.
        report: takes the findings.
    """
    lock = evidence.root / LOCK
    digest = sha256_file(lock) if lock.is_file() else None
    pins: dict[str, set[str]] = {}
    for name, version in PIN.findall(lock.read_text(encoding="utf-8")) if digest else []:
        pins.setdefault(name.lower(), set()).add(version)
    usual = _usual([_versions(receipt) for receipt in evidence.receipts.values()])
    for stage, receipt in evidence.receipts.items():
        problems = []
        if receipt["environment"]["lock_sha256"] != digest:
            problems.append(f"ran with another {LOCK} than the project has")
        ran = _versions(receipt)
        unpinned = [n for n, v in ran.items() if n in pins and _public(v) not in pins[n]]
        if unpinned and not problems:
            problems.append(f"{short(_named(ran, unpinned))} is not what {LOCK} pins")
        unusual = [name for name, value in usual.items() if ran.get(name) != value]
        if unusual:
            problems.append(f"{short(_named(ran, unusual))} is not what the other stages ran with")
        remedy = f"make env, then dvc repro --force --single-item {stage}"
        report.check("environment", stage, "; ".join(problems) or None, remedy)


def check_device(evidence: Evidence, report: Report) -> None:
    """Compare the device of each stage that chooses one with params.yaml and the other stages.

    Args:
        evidence: what there is.
        report: takes the findings.
    """
    asked = {
        stage: str(params["device"])
        for stage, receipt in evidence.receipts.items()
        for params in receipt["params"].values()
        if "device" in params
    }
    used = {stage: evidence.receipts[stage]["environment"] for stage in asked}
    usual = Counter(e["device_name"] for e in used.values()).most_common(1)
    for stage, wanted in asked.items():
        device, name = used[stage]["device"], used[stage]["device_name"]
        problem = None
        if wanted not in ("auto", device):
            problem = f"ran on {device}, but device is {wanted}"
        elif name != usual[0][0]:
            problem = f"ran on {name}, other stages on {usual[0][0]}"
        report.check("device", stage, problem, f"dvc repro --force --single-item {stage}")


def _versions(receipt: dict[str, Any]) -> dict[str, str]:
    environment = receipt["environment"]
    return {"python": environment["python"], **environment["versions"]}


def _usual(every: list[dict[str, str]]) -> dict[str, str | None]:
    """Return the version of each package that most stages ran with."""
    names = {name for versions in every for name in versions}
    return {n: Counter(v.get(n) for v in every).most_common(1)[0][0] for n in sorted(names)}


def _public(version: str) -> str:
    return version.partition("+")[0]


def _named(versions: dict[str, str], names: list[str]) -> list[str]:
    return [f"{name} {versions.get(name, 'none')}" for name in names]
