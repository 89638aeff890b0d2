"""A Slurm cluster of this one machine: Debian's daemons on loopback, without systemd or accounting.

The node has a fake GPU (its device file is /dev/null), so that requests for one are scheduled. The
daemons read /etc/slurm/slurm.conf, for Snakemake strips SLURM_CONF from its jobs; where that file
exists already, the machine is a real cluster's and nothing is started.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

CONFIG = Path("/etc/slurm")
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "squeue", "scontrol", "sinfo")
PATIENCE = 60  # s until the node is idle
OURS = "# written by a test; its files are in "
SLURM_CONF = """{ours}{folder}
ClusterName=pistole
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
MinJobAge=600
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP DefMemPerCPU=500
"""


def obstacle() -> str:
    """Say why no cluster can be started here; empty if one can."""
    if os.geteuid() != 0:
        return "Slurm's daemons want root"
    if not Path("/etc/debian_version").is_file():
        return "this is not Debian"
    absent = [name for name in DAEMONS if not shutil.which(name)]
    if absent:
        return (
            f"{absent[0]} is not installed: apt-get install --no-install-recommends "
            "slurmctld slurmd slurm-client munge"
        )
    if (CONFIG / "slurm.conf").exists() and not _leftover():
        return f"{CONFIG}/slurm.conf exists: this machine belongs to a cluster"
    return ""


@contextlib.contextmanager
def running(folder: Path) -> Iterator[None]:
    """Start the cluster with its files in ``folder``, and stop it."""
    if leftover := _leftover():
        _stop_all(leftover)
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    # munged wants its socket where all users can enter.
    for place in (folder, *folder.parents[:2]):
        place.chmod(0o755)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 - 512
    values = {
        "ours": OURS,
        "host": host,
        "folder": folder,
        "cpus": os.cpu_count(),
        "memory": memory,
    }
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    CONFIG.mkdir(exist_ok=True)
    try:
        (CONFIG / "slurm.conf").write_text(SLURM_CONF.format(**values))
        (CONFIG / "gres.conf").write_text(f"NodeName={host} Name=gpu File=/dev/null\n")
        munge = {"key-file": key, "socket": folder / "munge.sock"}
        munge |= {f"{name}-file": folder / f"munged.{name}" for name in ("pid", "log", "seed")}
        ask("munged", "--force", *(f"--{name}={value}" for name, value in munge.items()))
        ask("slurmctld")
        ask("slurmd", "-N", host)
        _wait_until_idle(folder)
        yield
    finally:
        _stop_all(folder)


def ask(*command: str) -> str:
    """Run a command of Slurm and return what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def _wait_until_idle(folder: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        done = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, check=False
        )
        if done.stdout.strip() == "idle":
            return
        time.sleep(0.2)
    logs = "\n".join(path.read_text()[-2000:] for path in folder.glob("slurm*.log"))
    raise AssertionError(f"the node is not idle after {PATIENCE} s: {done.stderr}\n{logs}")


def _leftover() -> Path | None:
    """Return the folder of a cluster whose test was killed before it could stop it."""
    place = CONFIG / "slurm.conf"
    first = place.read_text().partition("\n")[0] if place.is_file() else ""
    return Path(first.removeprefix(OURS)) if first.startswith(OURS) else None


def _stop_all(folder: Path) -> None:
    """Cancel what still runs, so that no job outlives its cluster, and end the daemons."""
    for _ in range(60):
        subprocess.run(["scancel", "--user=root"], capture_output=True, check=False)
        left = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=False)
        if not left.stdout.strip():
            break
        time.sleep(0.5)
    for name in ("slurmd", "slurmctld", "munged"):
        _stop(folder / f"{name}.pid")
    for name in ("slurm.conf", "gres.conf"):
        (CONFIG / name).unlink(missing_ok=True)


def _stop(pid_file: Path) -> None:
    """End a daemon and wait until it has."""
    if not pid_file.is_file():
        return
    pid = int(pid_file.read_text())
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            for _ in range(50):
                os.kill(pid, 0)
                time.sleep(0.1)
