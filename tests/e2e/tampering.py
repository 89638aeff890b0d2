"""Ways to tamper with a finished project, and what an audit then finds."""

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

from pistole.lineage import receipts
from pistole.lineage.audit import audit
from pistole.lineage.track import track
from pistole.lineage.tracking import tracking_uri
from tests.e2e.micro import environment


def audited(project, allow=()):
    report = audit(project, tracking_uri(project), allow)
    return report, {(finding.check, finding.stage) for finding in report.findings}


def dvc(project, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=project,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def change_lock(project, old, new, count=1):
    lock = (project / "dvc.lock").read_text()
    assert old in lock
    (project / "dvc.lock").write_text(lock.replace(old, new, count))


def database(project, statement, *values):
    with sqlite3.connect(project / "mlflow.db") as connection:
        done = connection.execute(statement, values)
        assert done.rowcount > 0
    connection.close()


def new_store(project):
    """Leave the store for one that does not exist yet: mlflow keeps an open one by its address."""
    folder = Path(tempfile.mkdtemp(dir=project / ".pistole"))
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    return folder


def run_of(project, stage):
    return receipts.latest(project, stage)["run_id"]


def ids(project):
    return {receipt["id"] for receipt in receipts.every(project)}


def describe(run):
    return json.dumps({k: v for k, v in run.items() if k != "run_id"}, sort_keys=True)


def forge(project, stage, changes):
    """Rewrite a receipt and all runs, as whoever may write everything could."""
    receipt = receipts.latest(project, stage)
    record = {k: v for k, v in receipt.items() if k not in ("id", "run_id", "metrics_sha256")}
    record["environment"] = {**record["environment"], **changes}
    receipts.write(project, record, receipts.measured(project, receipt))
    new_store(project)
    track(project, tracking_uri(project))


def edit(path: Path, content: str) -> None:
    """Write to a file that DVC may have made read-only."""
    path.unlink()
    path.write_text(content)
