"""A process of its own for what needs mlflow, which imports it while its parent works.

The parent starts ``python -m MODULE URI``, asks once with JSON on its standard input and gets one
line of JSON. The child ends by itself if the parent is killed before it asked.
"""

import json
import subprocess
import sys
from typing import Any

PATIENCE = 600  # seconds for an answer: a server may be slow, a database locked by other stages


class Child:
    """The parent's side of the process."""

    def __init__(self, module: str, uri: str) -> None:
        """Start the process.

        Args:
            module: whose ``main`` imports mlflow, waits for the question and answers it.
            uri: address of the store.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, uri],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, question: Any) -> dict[str, Any]:
        """Ask, wait for the answer and end the process.

        Args:
            question: JSON-able.

        Returns:
            The answer.

        Raises:
            RuntimeError: the child could not do it.
        """
        answer, _ = self._process.communicate(json.dumps(question), timeout=PATIENCE)
        told = json.loads(answer.splitlines()[-1]) if answer.strip() else {"error": "no answer"}
        if "error" in told:
            raise RuntimeError(told["error"])
        return told

    def close(self) -> None:
        """End the process if it still waits."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
