"""Whether the MLflow store takes runs."""

import contextlib
import os
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from pistole.doctor.finding import FAILED, OK, WARNING, Finding
from pistole.lineage.store import database_of
from pistole.lineage.tracking import tracking_uri

PATIENCE = 5  # seconds
AFTERWARDS = "then `pistole track` writes what it lacks; runs go on without it"


def check_store(project: Path) -> Iterator[Finding]:
    """Open the store to read.

    Args:
        project: folder of the DVC project.

    Yields:
        One finding; a store that does not answer is a warning, since receipts stand in for it.
    """
    uri = tracking_uri(project)
    database = database_of(uri)
    if database is not None:
        yield _database(database)
    elif uri.startswith(("http://", "https://")):
        yield _server(uri)
    else:
        text = f"{uri.partition(':')[0]} store: it is not looked into"
        yield Finding("store", OK, text)


def _database(path: Path) -> Finding:
    if not path.is_file():
        if not os.access(path.parent, os.W_OK):
            return Finding("store", FAILED, f"{path.parent} is not writable", "change its owner")
        return Finding("store", OK, f"{path.name} is not there yet: the first run makes it")
    try:
        address = f"{path.as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=PATIENCE)) as database:
            (count,) = database.execute("select count(*) from runs").fetchone()
    except sqlite3.Error as error:
        remedy = f"move it away; {AFTERWARDS}"
        return Finding("store", FAILED, f"{path} cannot be read: {error}", remedy)
    if not os.access(path, os.W_OK):
        return Finding("store", FAILED, f"{path} is not writable", "chmod u+w, or change its owner")
    return Finding("store", OK, f"{path.name}: {count} runs")


def _server(uri: str) -> Finding:
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PATIENCE):
            return Finding("store", OK, f"{uri} answers")
    except (urllib.error.URLError, OSError, ValueError) as error:
        return Finding(
            "store", WARNING, f"{uri} does not answer: {error}", f"start it; {AFTERWARDS}"
        )
