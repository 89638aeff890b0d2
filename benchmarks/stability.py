"""What stage ``stability`` costs: time beside bare passes, and memory beside the model's size.

    python -m benchmarks.stability time --project FOLDER      # after the stages up to vectors
    python -m benchmarks.stability memory

``time`` runs the stage for both sources and then, in the same process, the same number of bare
passes of the same batches: forward, forward and backward to the weights, forward and backward to
the pixels. ``memory`` walks a short trajectory of a ViT-B/32 with random weights and watches the
anonymous memory of the process, for each score statistic.
"""

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated

import open_clip
import torch
import typer
from torch import Tensor
from torch.nn.functional import cross_entropy

from pistole.method.scores import STATISTICS
from pistole.models.zeroshot import ZeroShotClassifier, functional_logits
from pistole.params import load_params
from pistole.stages import stability
from pistole.stages.losses import Objective
from pistole.stages.memory import give_back_freed_tensors
from pistole.stages.runtime import classifier, device_of, tower
from pistole.stages.slices import Slice, read_slice

app = typer.Typer(no_args_is_help=True, add_completion=False)
PARAMS = Path("params.yaml")
MIB = 2**20


@app.command("time")
def time_share(
    project: Annotated[Path, typer.Option(help="folder with params.yaml and artifacts")],
) -> None:
    """Print the share of the stage's wall time that the same bare passes take."""
    params = load_params(project / PARAMS)
    artifacts = project / "artifacts"
    base, data = artifacts / "base", artifacts / "data" / params.data.finetune
    device = device_of(params)
    images = read_slice(data, "score")
    for source in ("natural", "robust"):
        checkpoint = artifacts / "checkpoints" / source
        with tempfile.TemporaryDirectory() as out:
            start = time.perf_counter()
            stability.run(params, source, base, checkpoint, data, Path(out) / "scores")
            stage = time.perf_counter() - start
        model = classifier(base, images.dataset, device)
        theta = tower(checkpoint, base, device)
        start = time.perf_counter()
        bare_passes(params, source, Objective(model, images, params.stability.batch_size), theta)
        bare = time.perf_counter() - start
        print(f"{source}: stage {stage:.1f} s, bare passes {bare:.1f} s, share {bare / stage:.2f}")


def bare_passes(params, source: str, objective: Objective, theta: dict[str, Tensor]) -> None:
    """Do the passes of one trajectory and nothing else."""
    knobs, calibration = params.stability, params.attack.calibration
    x = objective.clean.to(objective.device)
    micro = stability.micro_size(knobs.score_stat, knobs.microbatch, knobs.batch_size)
    halves = [torch.arange(half, len(x), 2) for half in (0, 1)]
    for _ in range(knobs.K):
        if source == "robust":
            for batch in objective.batches():
                for _ in range(calibration.steps):
                    pixels = x[batch].requires_grad_()
                    loss = cross_entropy(
                        functional_logits(objective.model, theta, pixels), objective.labels[batch]
                    )
                    torch.autograd.grad(loss, pixels)
        with torch.no_grad():
            for _ in range(1 + 2 * knobs.pci.pairs):
                for batch in objective.batches():
                    functional_logits(objective.model, theta, x[batch])
        leaves = {name: value.detach().requires_grad_() for name, value in theta.items()}
        for half in (*halves, *halves):  # plain and weighted
            for batch in half.split(micro):
                logits = functional_logits(objective.model, leaves, x[batch])
                loss = cross_entropy(logits, objective.labels[batch])
                torch.autograd.grad(loss, list(leaves.values()))


class Watch:
    """The largest anonymous memory of this process while the block runs."""

    def __enter__(self) -> "Watch":
        """Start watching."""
        self.before = self.peak = resident()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()
        return self

    def _look(self) -> None:
        while not self.stopped.wait(0.002):
            self.peak = max(self.peak, resident())

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self.stopped.set()
        self.thread.join()


def resident() -> int:
    """Return the anonymous resident memory in bytes: file mappings are not counted."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("this system does not tell its anonymous memory")


@app.command()
def memory(
    params_file: Annotated[Path, typer.Option("--params", help="parameters")] = PARAMS,
    statistic: Annotated[str, typer.Option(help="one statistic; each needs a fresh process")] = "",
) -> None:
    """Print the trajectory's peak memory as a multiple of the model's fp32 size."""
    if not statistic:
        for name in STATISTICS:
            again = [sys.executable, "-m", "benchmarks.stability", "memory", "--statistic", name]
            subprocess.run([*again, "--params", str(params_file)], check=True)
        return
    params = load_params(params_file)
    give_back_freed_tensors()  # as the stage does
    visual = open_clip.create_model("ViT-B-32").visual
    features = torch.nn.functional.normalize(torch.randn(10, 512), dim=1)
    model = ZeroShotClassifier(visual, features, (0.5,) * 3, (0.5,) * 3, 224, 100.0)
    pixels = torch.randint(0, 256, (4, 3, 224, 224), dtype=torch.uint8)
    images = Slice("noise", [str(i) for i in range(4)], pixels, torch.arange(4), "")
    size = sum(4 * p.numel() for p in visual.parameters())
    pci = params.stability.pci.model_copy(update={"pairs": 1})
    changes = {"K": 2, "score_stat": statistic, "batch_size": 2, "pci": pci}
    own = params.model_copy(
        update={"stability": params.stability.model_copy(update=changes), "threads": 2}
    )
    theta = {name: value.detach() for name, value in visual.named_parameters()}
    objective = Objective(model, images, 2)
    with torch.no_grad():  # the kernels' work space, which no trajectory can avoid, is made here
        model(objective.clean)
    with tempfile.TemporaryDirectory() as scratch, Watch() as watch:
        probe = stability.Probe(own, "natural", objective)
        for _ in stability.scores(own, theta, probe, Path(scratch)):
            pass
    # theta_s was there before the watch began.
    multiple = (watch.peak - watch.before) / size + 1
    print(f"{statistic}: model {size / MIB:.0f} MiB, trajectory {multiple:.2f} x")


if __name__ == "__main__":
    app()
