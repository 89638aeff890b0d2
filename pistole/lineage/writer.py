"""A process that imports mlflow while the stage works, and then writes the stage's run.

Importing mlflow takes as long as many a stage, so the process is started with the stage.
"""

import contextlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pistole.lineage.child import Child

if TYPE_CHECKING:
    from pistole.lineage.record import StageRun


class Writer(Child):
    """The stage's side of the process."""

    def __init__(self, uri: str) -> None:
        """Start the process, which opens the store before it is asked to write.

        Args:
            uri: address of the store.
        """
        self._uri = uri
        super().__init__("pistole.lineage.writer", uri)

    def write(
        self,
        run: "StageRun",
        record: Mapping[str, Any],
        tags: Mapping[str, str],
        status: str,
    ) -> str:
        """Write the run and end the process.

        Args:
            run: the stage's metrics, figures and tables.
            record: what went in and came out.
            tags: circumstances of the run.
            status: FINISHED, FAILED or KILLED.

        Returns:
            The run's id.

        Raises:
            RuntimeError: the store could not be written.
        """
        plain = asdict(run) | {"files": [(str(file), folder) for file, folder in run.files]}
        request = {"uri": self._uri, "run": plain, "record": record, "tags": tags, "status": status}
        return self.ask(request)["run_id"]


class Absent:
    """Hides what mlflow imports if it is installed and a client needs nothing of: half its time."""

    names = frozenset({"matplotlib", "pandas", "scipy", "sklearn"})

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Refuse the hidden packages and leave all others to the finders after this one.

        Args:
            name: the module that is imported.
            path: not used.
            target: not used.

        Raises:
            ModuleNotFoundError: the module is one of the hidden packages.
        """
        if name in self.names:
            raise ModuleNotFoundError(f"{name} is left out of this process", name=name)


def main() -> None:
    """Import mlflow and open the store, wait for a request, and answer it."""
    sys.meta_path.insert(0, Absent())
    from pistole.lineage.record import StageRun
    from pistole.lineage.store import open_store, write_run

    with contextlib.suppress(Exception):  # whoever writes will meet it again and can tell it
        open_store(sys.argv[1])
    text = sys.stdin.read()
    if not text:
        return
    request = json.loads(text)
    plain = request.pop("run")
    plain["metrics"] = [tuple(metric) for metric in plain["metrics"]]
    plain["files"] = [(Path(file), folder) for file, folder in plain["files"]]
    try:
        answer = {"run_id": write_run(run=StageRun(**plain), **request)}
    except Exception as error:  # the stage decides what a failure to record means
        answer = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
