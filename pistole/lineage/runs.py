"""Read MLflow runs in a process of its own: mlflow takes seconds to import, meanwhile we hash."""

import json
import sys
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from pistole.lineage.child import Child
from pistole.lineage.store import EXPERIMENT, database_of, import_client
from pistole.lineage.writer import Absent

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PAGE = 500


class Reader(Child):
    """The caller's side of the process."""

    def __init__(self, uri: str) -> None:
        """Start the process, which imports mlflow before it is asked.

        Args:
            uri: address of the store.
        """
        super().__init__("pistole.lineage.runs", uri)

    def read(self, receipts: Collection[str]) -> list[dict[str, Any]]:
        """Read all runs and end the process.

        Args:
            receipts: identities of receipts whose runs are wanted with params and metrics.

        Returns:
            As :func:`read_runs`.

        Raises:
            RuntimeError: the store could not be read.
        """
        return self.ask(sorted(receipts))["runs"]


def read_runs(uri: str, receipts: Collection[str]) -> list[dict[str, Any]]:
    """Read all runs of the experiment, the deleted ones too.

    Args:
        uri: address of the store; a database that does not exist is not created.
        receipts: identities of receipts whose runs are wanted with params and metrics.

    Returns:
        Per run ``run_id``, ``status``, ``deleted`` and ``tags``; where wanted also ``params`` and
        ``metrics`` as (name, value, step, time), every step of them.

    Raises:
        FileNotFoundError: the database does not exist.
    """
    database = database_of(uri)
    if database is not None and not database.is_file():
        raise FileNotFoundError(f"{database} does not exist")
    client = import_client()(uri)
    return [_plain(client, run, receipts) for run in every_run(client)]


def every_run(client: "MlflowClient") -> Iterator["Run"]:
    """Page through all runs of the experiment.

    Args:
        client: client of the store.

    Yields:
        Each run, the deleted ones too.
    """
    from mlflow.entities import ViewType

    experiment = client.get_experiment_by_name(EXPERIMENT)
    token = None
    while experiment is not None:
        ids = [experiment.experiment_id]
        page = client.search_runs(
            ids, run_view_type=ViewType.ALL, max_results=PAGE, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _plain(client: "MlflowClient", run: "Run", receipts: Collection[str]) -> dict[str, Any]:
    plain = {
        "run_id": run.info.run_id,
        "status": run.info.status,
        "deleted": run.info.lifecycle_stage == "deleted",
        "tags": dict(run.data.tags),
    }
    if plain["tags"].get("pistole.receipt") not in receipts:
        return plain
    metrics = [
        [metric.key, metric.value, metric.step, metric.timestamp]
        for name in run.data.metrics
        for metric in client.get_metric_history(run.info.run_id, name)
    ]
    return plain | {"params": dict(run.data.params), "metrics": metrics}


def main() -> None:
    """Import mlflow, wait for the wanted receipts, and answer with the runs."""
    sys.meta_path.insert(0, Absent())
    uri = sys.argv[1]
    database = database_of(uri)
    if database is None or database.is_file():
        import_client()
    text = sys.stdin.read()
    if not text:
        return
    try:
        answer: dict[str, Any] = {"runs": read_runs(uri, set(json.loads(text)))}
    except Exception as error:  # the caller decides what an unreadable store means
        answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
