"""Two processes of torchrun train what one process trains, and one of them writes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pistole.errors import UserError
from pistole.files import load_tensors
from pistole.robust.workers import Workers
from tests.e2e.micro import PREPARED, ROOT, environment, refusal, run_micro

# Plain gradient steps: AdamW divides by a gradient's size, which makes round-off of gradients
# that are zero in exact arithmetic (the keys' biases) a step of full length.
RECIPE = {
    "finetune__robust__objective": "pmg",
    "finetune__robust__optimizer": "sgd",
    "finetune__robust__lr": 0.01,
    "finetune__robust__batch_size": 10,
}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that one process trained."""
    folder = tmp_path_factory.mktemp("alone")
    return run_micro(folder, [*PREPARED, ["finetune", "robust", "--out", "one"]], **RECIPE)


def test_two_processes_give_the_result_of_one_to_1e_5(alone):
    told = subprocess.run(
        [*TORCHRUN, "-m", "pistole", "finetune", "robust", "--out", "two"],
        cwd=alone,
        env=environment() | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=300,
    )
    assert told.returncode == 0, told.stdout
    assert told.stdout.count("finetune robust: epoch 1/1, step 1, loss") == 1  # one process reports
    one, two = (load_tensors(alone / n / "visual.safetensors")[0] for n in ("one", "two"))
    torch.testing.assert_close(two, one, atol=1e-5, rtol=0)
    base = load_tensors(alone / "artifacts/base/visual.safetensors")[0]
    moved = max((one[name] - base[name]).abs().max() for name in one)
    assert moved > 1e-3  # or nothing would have been compared
    lines = [(alone / n / "curve.csv").read_text().splitlines() for n in ("one", "two")]
    assert lines[0][0] == lines[1][0]
    for single, double in zip(lines[0][1:], lines[1][1:], strict=True):
        values = [[float(cell) for cell in line.split(",")] for line in (single, double)]
        assert values[1] == pytest.approx(values[0], rel=1e-5, abs=1e-5)
    assert sorted(path.name for path in (alone / "two").iterdir()) == [
        "curve.csv",
        "training.json",
        "visual.safetensors",
    ]
    assert not list((alone / ".pistole/resume").iterdir())


def test_a_stage_that_does_not_divide_its_work_is_refused(alone, monkeypatch, capsys):
    monkeypatch.chdir(alone)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert refusal(capsys, "evaluate", "base", "--model", "one", "--out", "new") == (
        "2 processes were started, but stage evaluate runs in one: start it without torchrun"
    )


def test_rows_cover_a_batch_once_in_order():
    for images, count, parts in ((8, 2, 1), (10, 2, 2), (7, 3, 2), (64, 1, 1)):
        shares = [Workers(rank, count).rows(images, parts) for rank in range(count)]
        assert all(len(share) == parts for share in shares)
        rows = [row for share in shares for part in share for row in range(images)[part]]
        assert rows == list(range(images))
        sizes = [part.stop - part.start for share in shares for part in share]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) > 0


def test_a_process_without_a_gpu_of_its_own_is_refused(monkeypatch):
    from pistole.robust.workers import joined

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(UserError, match=r"process 1 of this machine has no GPU \(there are 1\)"),
        joined(torch.device("cuda")),
    ):
        pass


def test_processes_that_start_at_different_steps_are_refused(monkeypatch):
    def other_is_at_4(ends: torch.Tensor, op: object) -> None:
        ends.copy_(torch.maximum(ends, torch.tensor([4, -4])))

    monkeypatch.setattr(torch.distributed, "all_reduce", other_is_at_4)
    Workers(0, 2).require_same(4, "the step", torch.device("cpu"))
    with pytest.raises(UserError, match="the step is 2 in one process and 4 in another"):
        Workers(0, 2).require_same(2, "the step", torch.device("cpu"))
