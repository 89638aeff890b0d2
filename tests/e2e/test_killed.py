"""kill -9 in the middle of training, and of writing: a second run ends with the same bytes."""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from pistole.files import load_tensors, save_tensors, sha256_file
from tests.e2e.micro import ROOT, environment, make_project

STEPS = 250
STATE = Path(".pistole/resume/finetune-natural.safetensors")
OUT = Path("artifacts/checkpoints/natural")
REPRO = [sys.executable, "-m", "dvc", "repro", "finetune@natural"]
PATIENCE = 300  # seconds


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where ``pistole`` is found, and MLflow is not: importing it costs seconds a stage."""
    stubs = tmp_path_factory.mktemp("stubs")
    (stubs / "mlflow.py").write_text("raise ImportError('not the point of this test')\n")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return environment() | {"PATH": path, "PYTHONPATH": str(stubs)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two equal projects that are done up to the base."""
    first = make_project(
        tmp_path_factory.mktemp("killed"), datasets=["clutter"], finetune__natural__steps=STEPS
    )
    code = "import sys; from tests.e2e.micro import repro; sys.exit(repro('base'))"
    env = environment() | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-P", "-c", code], cwd=first, env=env, check=True)
    second = tmp_path_factory.mktemp("whole")
    shutil.copytree(first, second, dirs_exist_ok=True)
    return first, second


def run(folder: Path, env: dict[str, str]) -> str:
    done = subprocess.run(
        REPRO,
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def kill_in_the_middle(folder: Path, env: dict[str, str]) -> None:
    """Start the stage and kill it and DVC once the first state is on disk."""
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            REPRO, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )
        try:
            end = time.monotonic() + PATIENCE
            while not (folder / STATE).exists():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < end, "no state was saved"
                time.sleep(0.02)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def steps_told(output: str) -> list[int]:
    return [int(step) for step in re.findall(r"finetune natural: .*?step (\d+)", output)]


def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(folders, env):
    killed, whole = folders
    kill_in_the_middle(killed, env)
    assert not (killed / OUT).exists()
    done = len(load_tensors(killed / STATE)[1]["curve"])
    assert 50 <= done < STEPS
    assert steps_told((killed / "log").read_text())[0] == 1

    # What a kill while the state or the result is written leaves; this one came in between.
    half = (killed / STATE).with_name(f".{STATE.name}.abcdefgh.part")
    half.write_bytes((killed / STATE).read_bytes()[:1000])
    (killed / OUT).with_name(f".{OUT.name}.abcdefgh.part").mkdir(parents=True)

    resumed = run(killed, env)
    assert f"finetune natural: kept from a killed run, {done}/{STEPS}, " in resumed
    assert min(steps_told(resumed)) > done  # nothing is trained twice
    assert max(steps_told(resumed)) == STEPS
    assert not (killed / STATE).exists()
    assert not list(killed.rglob("*.part"))

    assert steps_told(run(whole, env))[0] == 1
    names = sorted(path.name for path in (whole / OUT).iterdir())
    assert names == ["curve.csv", "training.json", "visual.safetensors"]
    assert sorted(path.name for path in (killed / OUT).iterdir()) == names
    for name in names:
        assert sha256_file(killed / OUT / name) == sha256_file(whole / OUT / name), name
    assert (killed / "dvc.lock").read_bytes() == (whole / "dvc.lock").read_bytes()
    assert len((whole / OUT / "curve.csv").read_text().splitlines()) == STEPS + 1


def test_the_half_file_of_a_killed_process_is_removed_by_the_next_write(tmp_path):
    target = tmp_path / "state.safetensors"
    save_tensors(target, {"w": torch.ones(3)}, {"step": 1})
    code = f"""
        import os, signal, torch
        from pistole.files import save_tensors
        os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
        save_tensors({str(target)!r}, {{"w": torch.zeros(3)}})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".state.safetensors.*.part"))) == 1
    tensors, about = load_tensors(target)  # the last whole state is still there
    assert (tensors["w"].tolist(), about) == ([1, 1, 1], {"step": 1})
    # What another process is writing beside it is not touched.
    other = tmp_path / ".state.safetensors.json.abcdefgh.part"
    other.write_text("live")
    save_tensors(target, {"w": torch.full((3,), 2.0)})
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, target.name]
    assert load_tensors(target)[0]["w"].tolist() == [2, 2, 2]
