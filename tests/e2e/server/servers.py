"""An MLflow server over PostgreSQL on loopback, from Debian's packages, as a lab would run it."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.e2e.small_dag import environment

PATIENCE = 900  # s for a server or a stage; an idle machine needs ten


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def obstacle() -> str:
    """Say why no server can be started here; empty if one can."""
    if os.geteuid() != 0:
        return "the test starts PostgreSQL as its own user, for which it must be root"
    if programs() is None:
        return "PostgreSQL is not installed: apt-get install --no-install-recommends postgresql"
    if importlib.util.find_spec("psycopg2") is None:
        return "psycopg2 is not installed: uv pip install psycopg2-binary"
    return ""


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Start a database and yield its address."""
    place = programs()
    assert place is not None
    # Outside of pytest's folders, which other users may not enter.
    folder = Path(tempfile.mkdtemp(prefix="pistole-postgres-"))
    shutil.chown(folder, "postgres", "postgres")
    port = free_port()
    who = {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": folder}
    where = ["-h", "127.0.0.1", "-p", str(port)]
    data = folder / "data"
    try:
        initialise = [place / "initdb", "-D", data, "-U", "mlflow", "-A", "trust", "--no-sync"]
        subprocess.run(initialise, check=True, capture_output=True, **who)
        with ended(subprocess.Popen([place / "postgres", "-D", data, "-k", folder, *where], **who)):
            wait_for(
                lambda: not subprocess.call([place / "pg_isready", "-q", *where, "-U", "mlflow"])
            )
            subprocess.run([place / "createdb", *where, "-U", "mlflow", "mlflow"], check=True)
            yield f"postgresql://mlflow@127.0.0.1:{port}/mlflow"
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def mlflow_server(database: str, folder: Path) -> Iterator[str]:
    """Start ``mlflow server`` over a database and yield its address."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    # One worker: a supervisor of several kills those that a busy machine keeps from answering.
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    variables = environment(MLFLOW_DISABLE_TELEMETRY="true")
    # The driver may lie in a folder that only this test was told of.
    variables["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    uri = f"http://127.0.0.1:{port}"
    with (
        (folder / "server.log").open("w") as log,
        ended(
            subprocess.Popen(
                command,
                cwd=folder,
                env=variables,
                stdout=log,
                stderr=log,
                start_new_session=True,
            ),
            group=True,
        ),
    ):
        wait_for(lambda: answers(f"{uri}/health"), folder / "server.log")
        yield uri


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def wait_for(ready: Callable[[], bool], log: Path | None = None) -> None:
    end = time.monotonic() + PATIENCE
    while not ready():
        told = log.read_text()[-2000:] if log else ""
        assert time.monotonic() < end, f"no answer in {PATIENCE} s: {told}"
        time.sleep(0.5)


@contextlib.contextmanager
def ended(process: subprocess.Popen, group: bool = False) -> Iterator[None]:
    """End a server, with its children if they are its group."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            if group:
                os.killpg(process.pid, signal.SIGTERM)
            else:
                process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
        if group:  # the server's workers may outlive it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
