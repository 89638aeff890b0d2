"""Command ``times``: the report's page with time, cost and environment of every stage."""

from collections.abc import Mapping
from pathlib import Path

from pistole.errors import UserError
from pistole.files import write_text
from pistole.lineage import lockfile, receipts
from pistole.report.times import Ran, clock, with_times

FULL = "full.html"


def run(project: Path, report: Path, costs: Mapping[str, float | None]) -> str:
    """Write ``full.html`` beside the page, from the receipts that dvc.lock leads to.

    Args:
        project: folder of dvc.lock and the receipts.
        report: folder of stage ``report``.
        costs: stage -> forward-equivalents that it is expected to take.

    Returns:
        One line: the file, how many stages and how long they took.

    Raises:
        UserError: there is no page, or no stage has a receipt.
    """
    page = report / "index.html"
    if not page.is_file():
        raise UserError(f"{page} does not exist: run stage report, which writes it")
    stages, missing = [], []
    for name, entry in lockfile.read(project).items():
        receipt = receipts.find(project, name, lockfile.key_of(entry))
        if receipt is None:
            missing.append(name)
            continue
        stages.append(
            Ran(
                name=name,
                seconds=receipt["seconds"],
                cost=costs.get(name),
                environment=receipt["environment"],
                where=f"{receipt['user'] or 'unknown'} on {receipt['host']}",
                commit=receipt["code"]["commit"],
            )
        )
    if not stages:
        raise UserError(f"{project / receipts.FOLDER} has no receipt of this run: run `dvc repro`")
    write_text(report / FULL, with_times(page.read_text(encoding="utf-8"), stages, missing))
    total = clock(sum(stage.seconds for stage in stages))
    return f"{report / FULL}: {len(stages)} stages, {total}"
