"""What ``pistole merge`` costs on files: time beside mergekit and a plain copy, and peak memory.

    python -m benchmarks.merge FOLDER --mergekit BIN/mergekit-pytorch
    python -m benchmarks.merge FOLDER --size 0.1 --method linear     # small, without mergekit

Makes a base and two fine-tuned models of ``--size`` GB each (fp32, shapes of a ViT-bigG and its
token embedding) in FOLDER, and removes them at the end. Each round runs, one after another as
child processes: a plain copy (read all three files, write one of their size, flush it to the disk)
and, for each method, this package and mergekit with the same weights and options. All are timed
from start to end, interpreter and imports included; ours flushes its file and hashes all four,
mergekit does neither, so the time to flush its files afterwards is given beside it. Busy is the
processor time of all the child's threads, which other work on the machine hardly changes. Memory
is the child's largest resident set (mapped files too) and the largest anonymous part of it, looked
at every 5 ms; `import torch` stands for what any of these processes needs before it begins.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from pistole.models.stream_writer import Slot, data_order, write_stream
from pistole.models.streams import open_state, size_of

app = typer.Typer(add_completion=False)
NAMES = ("base", "one", "two")
METHODS = ["linear", "linear, no hash", "ties", "ties, whole vector"]
PIECE = 2**20
GB, MIB = 1e9, 2**20
COPY = """
import os, sys
out, *files = sys.argv[1:]
buffer = memoryview(bytearray(2**24))
written = os.open(out, os.O_WRONLY | os.O_CREAT)
for number, file in enumerate(files):
    read = os.open(file, os.O_RDONLY)
    while count := os.readv(read, [buffer]):
        if not number:
            os.write(written, buffer[:count])
os.fsync(written)
"""


@dataclass(frozen=True)
class Run:
    """One child process.

    Attributes:
        seconds: from its start to its end.
        busy: processor seconds, of user and system.
        flush: until what it wrote is on the disk, after that.
        resident: largest resident set, bytes.
        anonymous: largest anonymous part of it, bytes.
    """

    seconds: float
    busy: float
    flush: float
    resident: int
    anonymous: int


def shapes(size: float) -> dict[str, Slot]:
    """Tensors of a ViT-bigG: its token embedding, and as many blocks as the size allows.

    Args:
        size: of the file, GB.

    Returns:
        What the file holds.
    """
    slots = {"token_embedding.weight": Slot(torch.float32, (49408, 1280))}
    block = {"in_proj": (4992, 1664), "fc1": (8192, 1664), "fc2": (1664, 8192)}
    block |= {"out_proj": (1664, 1664), "ln": (1664,), "bias": (8192,)}
    if size < 1:  # a small run keeps the proportions, not the widths
        slots = {"token_embedding.weight": Slot(torch.float32, (4940, 1280))}
        block = {name: tuple(max(side // 4, 1) for side in shape) for name, shape in block.items()}
    number = 0
    while sum(slot.nbytes for slot in slots.values()) < size * GB:
        for name, shape in block.items():
            slots[f"resblocks.{number}.{name}.weight"] = Slot(torch.float32, shape)
        number += 1
    return slots


def make(folder: Path, size: float) -> dict[str, Slot]:
    """Write the three models piece by piece.

    Args:
        folder: where to.
        size: of each, GB.

    Returns:
        What each holds.
    """
    slots = shapes(size)

    source = torch.Generator().manual_seed(0)
    common, own = (torch.randn(PIECE, generator=source) for _ in range(2))

    def parts(seed: int) -> Iterator[Tensor]:
        number = 0
        for name in data_order(slots):
            left = slots[name].nbytes // 4
            while left:
                # The same noise in another place and another length: no two pieces are equal.
                values = common.roll(7919 * number) * (0.02 + 1e-5 * number)
                if seed:
                    values += own.roll(104729 * seed * number) * (0.001 + 1e-6 * number)
                yield values[:left]
                left, number = max(0, left - PIECE), number + 1

    for seed, name in enumerate(NAMES):
        write_stream(folder / f"{name}.safetensors", slots, parts(seed), {})
    return slots


def measured(command: Sequence[str], written: Path) -> Run:
    """Run a child process.

    Args:
        command: its words.
        written: file or folder that it writes.

    Returns:
        What it cost.

    Raises:
        RuntimeError: it failed.
    """
    log = written.parent / "log"
    os.sync()
    with log.open("wb") as stream:
        start = time.perf_counter()
        child = subprocess.Popen(command, stdout=stream, stderr=stream)
        peak = [0, 0]
        watch = threading.Thread(target=_watch, args=(child.pid, peak))
        watch.start()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    watch.join()
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)}: {log.read_text()[-2000:]}")
    start = time.perf_counter()
    for file in [written] if written.is_file() else written.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    flush = time.perf_counter() - start
    # ru_maxrss would tell of this process, which the child was forked from.
    return Run(seconds, usage.ru_utime + usage.ru_stime, flush, *peak)


def _watch(pid: int, peak: list[int]) -> None:
    status = Path(f"/proc/{pid}/status")
    while True:
        try:
            lines = status.read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return
        found = dict(line.split(":", 1) for line in lines)
        if "VmHWM" not in found:  # the process has ended and was not waited for yet
            return
        for number, key in enumerate(("VmHWM", "RssAnon")):
            peak[number] = max(peak[number], 1024 * int(found[key].split()[0]))
        time.sleep(0.005)


def commands(
    folder: Path, mergekit: Path | None, methods: Sequence[str]
) -> dict[str, tuple[list[str], Path]]:
    """List what is run in each round.

    Args:
        folder: of the models.
        methods: which of ours.
        mergekit: its program; None: without.

    Returns:
        By name the command and what it writes.
    """
    files = [str(folder / f"{name}.safetensors") for name in NAMES]
    half = ["--weight", "0.5", "--weight", "0.5"]
    ours = {
        "linear, no hash": [*half, "--no-hash"],
        "linear": half,
        "ties": ["--set", "scope=tensor", "--set", "zero_sign=positive"],
        "ties, whole vector": [],
    }
    theirs = {
        "linear": {"parameters": {"weight": 0.5}},
        "ties": {"parameters": {"weight": 1.0, "density": 0.2}},
    }
    out, copied = folder / "out.safetensors", folder / "copied"
    found = {
        "import torch": ([sys.executable, "-c", f"import torch; open({str(out)!r}, 'w')"], out),
        "plain copy": ([sys.executable, "-c", COPY, str(copied), *files], copied),
    }
    for name, options in ours.items():
        if name not in methods:
            continue
        command = [sys.executable, "-m", "pistole", "merge", "--method", name.partition(",")[0]]
        command += ["--base", files[0], "--model", files[1], "--model", files[2]]
        found[f"pistole {name}"] = ([*command, *options, "--out", str(out)], out)
        if mergekit is not None and name in theirs:
            config = {
                "merge_method": name,
                "dtype": "float32",
                "models": [{"model": file, **theirs[name]} for file in files[1:]],
            }
            if name == "ties":
                config["base_model"] = files[0]
            path = folder / f"{name}.yml"
            path.write_text(json.dumps(config))  # JSON is YAML
            target = folder / "mergekit"
            found[f"mergekit {name}"] = ([str(mergekit), str(path), str(target)], target)
    return found


def largest_difference(one: Path, other: Path) -> float:
    """Compare two merged models.

    Args:
        one: a file or folder.
        other: likewise.

    Returns:
        The largest difference between two values of one place.
    """
    worst = 0.0
    with open_state(one) as left, open_state(other) as right:
        if left.tensors.keys() != right.tensors.keys():
            raise RuntimeError(f"{one} and {other} hold different tensors")
        for name, tensor in left.tensors.items():
            for at in range(0, size_of(tensor), PIECE):
                end = min(at + PIECE, size_of(tensor))
                both = [t.read(at, end) for t in (tensor, right.tensors[name])]
                worst = max(worst, (both[0] - both[1]).abs().max().item())
    return worst


def table(runs: dict[str, list[Run]], slots: dict[str, Slot]) -> str:
    """Tell the costs.

    Args:
        runs: by name of the command, one per round.
        slots: of a model.

    Returns:
        A table in Markdown.
    """
    size = sum(slot.nbytes for slot in slots.values())
    limit = 1.5 * 3 * max(slot.nbytes for slot in slots.values()) + 300e6
    largest = max(slot.nbytes for slot in slots.values()) / MIB
    lines = [
        f"{size / GB:.2f} GB per model, largest tensor {largest:.0f} MiB; asked: at most "
        f"{limit / MIB:.0f} MiB",
        "",
        "| | s, each round | busy, s | flush after it, s | share of the copy's rate "
        "| resident, MiB | anonymous, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, made in runs.items():
        pairs = list(zip(runs["plain copy"], made, strict=True))
        cells = [
            name,
            ", ".join(f"{run.seconds:.1f}" for run in made),
            ", ".join(f"{run.busy:.1f}" for run in made),
            ", ".join(f"{run.flush:.1f}" for run in made),
            ", ".join(f"{copy.seconds / run.seconds:.2f}" for copy, run in pairs),
            f"{max(run.resident for run in made) / MIB:.0f}",
            f"{max(run.anonymous for run in made) / MIB:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for method in ("linear", "ties"):
        if f"mergekit {method}" in runs:
            pairs = zip(runs[f"pistole {method}"], runs[f"mergekit {method}"], strict=True)
            ratios = [
                f"{our.seconds / their.seconds:.2f} ({our.busy / their.busy:.2f} of busy time)"
                for our, their in pairs
            ]
            lines.append(f"\n{method}: our time over mergekit's, each round: {', '.join(ratios)}")
    return "\n".join(lines)


def compare(place: Path, name: str, written: Path, *, keep: bool) -> None:
    """Remove what a command wrote, after comparing it with the other package's result.

    Args:
        place: folder of the benchmark.
        name: of the command.
        written: by it.
        keep: whether the other package's turn is still to come.
    """
    ours = place / "ours.safetensors"
    if name.startswith("mergekit"):
        worst = largest_difference(ours, next(written.glob("*.safetensors")))
        print(f"{name}: largest difference from ours {worst:.2g}", file=sys.stderr, flush=True)
        ours.unlink()
        shutil.rmtree(written)
    elif keep and name.startswith("pistole"):
        written.rename(ours)
    else:
        written.unlink()


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="for the models; five times --size must be free")],
    mergekit: Annotated[Path | None, typer.Option(help="its program mergekit-pytorch")] = None,
    size: Annotated[float, typer.Option(help="of each model, GB")] = 4.0,
    rounds: Annotated[int, typer.Option(help="how often everything is run")] = 2,
    methods: Annotated[list[str], typer.Option("--method", help="once for each")] = METHODS,
) -> None:
    """Make the models, run everything, print the table, remove the models."""
    place = folder / "merge-benchmark"
    place.mkdir(parents=True)
    try:
        slots = make(place, size)
        runs: dict[str, list[Run]] = {}
        todo = commands(place, mergekit, methods)
        for _ in range(rounds):
            for name, (command, written) in todo.items():
                runs.setdefault(name, []).append(measured(command, written))
                print(f"{name}: {runs[name][-1]}", file=sys.stderr, flush=True)
                compare(place, name, written, keep=name.replace("pistole", "mergekit") in todo)
        print(table(runs, slots))
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    app()
