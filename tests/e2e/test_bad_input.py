"""What a user meets after a mistake: status 2, one line that tells all, nothing half-written."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pistole.files import load_tensors, save_tensors
from tests.e2e.micro import (
    FINETUNED,
    PREPARED,
    environment,
    inside,
    refusal,
    run_micro,
    status,
    write_micro,
)

NATURAL = "artifacts/checkpoints/natural/visual.safetensors"


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_micro(tmp_path_factory.mktemp("micro"), [*PREPARED, *FINETUNED])


@pytest.fixture
def configure(finetuned: Path, tmp_path: Path):
    """A project of one's own, and a function that writes its params.yaml with changes."""
    # Hard links are safe: whatever writes a file replaces it.
    shutil.copytree(finetuned, tmp_path, copy_function=os.link, dirs_exist_ok=True)
    (tmp_path / "params.yaml").unlink()
    write_micro(tmp_path / "params.yaml")
    with inside(tmp_path):
        yield partial(write_micro, tmp_path / "params.yaml")


@pytest.fixture
def refused(configure, capsys) -> Callable[[str], str]:
    """A function that runs a command which must fail, and gives its one line."""
    return lambda command: refusal(capsys, *command.split())


def test_a_real_process_prints_the_line_and_nothing_else(configure):
    torch.save({"proj": torch.ones(2)}, "mine.pt")
    configure(finetune__natural__checkpoint="mine.pt")
    done = subprocess.run(
        [sys.executable, "-m", "pistole", "finetune", "natural", "--out", "new"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "pistole: mine.pt is a pickle, which can run code: convert it to safetensors, "
        "or allow it with --allow-pickle (weights only)\n"
    )
    assert not Path("new").exists()


TOKEN = "params --check params.yaml --out artifacts/params.ok"
MERGE = "merge vanilla --lambda 0.5 --out new"


@pytest.mark.parametrize("command", [TOKEN, "data index shape --out new", MERGE, "report", "prune"])
def test_an_unknown_key_stops_every_command_and_names_the_nearest(refused, command):
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("seed: 0\n", "seed: 0\nsede: 1\n"))
    assert refused(command) == "params.yaml: sede: unknown key, did you mean seed?"


def test_a_misspelt_key_is_told_with_the_one_that_is_now_missing(configure, capsys):
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("  kappa: 2", "  kapa: 2"))
    assert status(*TOKEN.split()) == 2
    assert capsys.readouterr().err.splitlines() == [
        "pistole: params.yaml: stability.kappa: missing, add it (number >= 0 and <= 1000)",
        "params.yaml: stability.kapa: unknown key, did you mean stability.kappa?",
    ]
    assert not Path("artifacts/params.ok").exists()


GONE = "does not exist: give the path of a safetensors file$"
NOT_RUN = "does not exist: run the stage that writes it$"
WDS = {"data__layout": "wds", "data__root": "sets"}
ROWS = {"base": "artifacts/base", "natural": "artifacts/checkpoints/natural"}
ALONE = {
    name: ["vanilla"] for name in ("methods", "frontier__methods", "theory__merge_path__methods")
}
# Command, changes of params.yaml, and what the line says.
MISTAKES = [
    ("base --params my.yaml", {}, r"^my\.yaml does not exist: write it with `pistole profile"),
    (TOKEN, {"stability__kappa": -1}, r"^params\.yaml: stability\.kappa: -1 is not valid \(number"),
    (TOKEN, {**ALONE, "models": ROWS}, "methods: pistole is missing: .* add it$"),
    (
        "data index shappe --out new",
        {},
        "^embedded dataset 'shappe' is unknown: use one of shape, ",
    ),
    (
        "data index toy --out new",
        WDS,
        r"^sets/toy does not exist: mend data\.root or the dataset.s name$",
    ),
    (
        "base --out new",
        {"datasets": ["clutter", "shape", "digit"]},
        rf"^artifacts/data/digit/index\.json {NOT_RUN}",
    ),
    (
        "base --out new",
        {"datasets": ["clutter"]},
        "^artifacts/data holds shape, which datasets does not name: run 'pistole prune'$",
    ),
    ("base --data nowhere --out new", {}, rf"^nowhere/clutter/index\.json {NOT_RUN}"),
    (
        "finetune natural --data artifacts/data/shape --out new",
        {},
        r"shape: no split 'finetune' \(has test\): set data\.finetune to this dataset$",
    ),
    (
        "finetune natural --out new",
        {"finetune__natural__batch_size": 65},
        r"^params\.yaml: finetune\.natural\.batch_size: 65 is above slices\.finetune 64$",
    ),
    (
        "finetune robust --out new",
        {"finetune__robust__checkpoint": "tecoa.safetensors"},
        rf"^tecoa\.safetensors {GONE}",
    ),
    (
        "finetune robust --out new",
        {"finetune__robust__checkpoint": "artifacts/base"},
        "^artifacts/base is a folder: give the path of a safetensors file$",
    ),
    ("vectors natural --checkpoint mine --out new", {}, f"^mine {GONE}"),
    ("stability natural --checkpoint mine --out new", {}, f"^mine {GONE}"),
    ("masks --out new", {}, rf"^artifacts/stability/natural/gism\.safetensors {GONE}"),
    ("select --natural tau.safetensors --out new", {}, rf"^tau\.safetensors {GONE}"),
    ("merge pistole --lambda 0.5 --out new", {}, rf"^artifacts/masks/pistole\.safetensors {GONE}"),
    ("merge vanilla --out new", {}, rf"^artifacts/select/lambda\.json {NOT_RUN}"),
    ("merge vanilla --lambda nan --out new", {}, "^lambda is nan: give the weight of the natural "),
    ("evaluate mine --model mine --out new", {}, f"^mine {GONE}"),
    ("theory pci_trace --artifacts none", {}, rf"^none/data/clutter/index\.json {NOT_RUN}"),
    ("theory interferance --out new", {}, "^theory check is 'interferance': choose one of "),
    ("report", {}, "does not exist: run stage evaluate@base, which writes it$"),
    ("show", {}, rf"^report/metrics\.json {NOT_RUN}"),
    ("profile use demo", {}, "^profiles does not exist: run in the project's folder$"),
]


@pytest.mark.parametrize(("command", "changes", "line"), MISTAKES)
def test_a_mistake_is_one_line_with_its_remedy(configure, refused, command, changes, line):
    configure(**changes)
    assert re.search(line, refused(command))


@pytest.mark.parametrize("command", ["merge", "frontier"])
def test_an_unknown_method_is_told_before_what_it_would_read(refused, command):
    # And not as one that stage select forgot.
    told = "no merging method 'pistol': did you mean 'pistole'? There are wise_ft, vanilla, "
    assert refused(f"{command} pistol --natural none --out new").startswith(told)


@pytest.mark.parametrize("command", ["finetune", "vectors", "stability"])
def test_an_unknown_source_is_refused_even_with_all_paths_given(refused, command):
    paths = "" if command == "finetune" else "--checkpoint artifacts/checkpoints/natural"
    told = "source is 'naturl': choose one of natural, robust"
    assert refused(f"{command} naturl {paths} --out new") == told


def test_merging_what_select_did_not_choose_or_what_is_no_mask(refused):
    Path("artifacts/select").mkdir()
    Path("artifacts/select/lambda.json").write_text('{"wise_ft": 0.5}\n')
    shutil.copy("artifacts/vectors/natural.safetensors", "artifacts/vectors/pistole.safetensors")
    # Scores and vectors have the tower's names, masks those of both sources.
    assert refused("merge pistole --masks artifacts/vectors --lambda 0.5 --out new") == (
        "artifacts/vectors/pistole.safetensors holds no masks: give the folder of 'pistole masks'"
    )
    assert refused("merge vanilla --out new") == (
        "artifacts/select/lambda.json has no 'vanilla': add it to methods and run stage select"
    )


@pytest.mark.parametrize("command", ["base", "finetune natural", "evaluate x --model none"])
def test_cuda_where_there_is_none(configure, refused, monkeypatch, command):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    configure(device="cuda")
    told = "device is 'cuda' but no CUDA device is visible: set device: auto or cpu"
    assert refused(f"{command} --out new") == told


def narrower(state: dict[str, torch.Tensor]) -> None:
    state["proj"] = state["proj"][:, 1:].contiguous()


CHECKPOINTS = {
    "architecture": (narrower, r"'proj' of another shape, \(\d+, \d+\) instead of \(\d+, \d+\): "),
    "missing": (lambda s: s.pop("proj"), "'proj' missing: give weights of the base's architecture"),
    "extra": (lambda s: s.update(head=torch.ones(1)), "'head' not in the model: give weights of "),
    "nan": (lambda s: s["proj"][:1, :1].fill_(torch.nan), "'proj' not finite: train or copy the "),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_checkpoint_that_does_not_fit(configure, refused, case):
    change, line = CHECKPOINTS[case]
    state = load_tensors(NATURAL)[0]
    change(state)
    save_file(state, "mine.safetensors")
    configure(finetune__natural__checkpoint="mine.safetensors")
    for command in ("finetune natural", "evaluate mine --model mine.safetensors"):
        assert re.search(rf"^mine\.safetensors: tensor {line}", refused(f"{command} --out new"))


def test_a_truncated_checkpoint(configure, refused):
    Path("cut.safetensors").write_bytes(Path(NATURAL).read_bytes()[:-9])
    configure(finetune__natural__checkpoint="cut.safetensors")
    told = refused("finetune natural --out new")
    assert re.search(r"^cut\.safetensors is truncated or not .*: copy or write it again$", told)


def test_a_vector_of_another_base(refused):
    tau = load_tensors("artifacts/vectors/natural.safetensors")[0]
    save_tensors("tau.safetensors", tau, {"base_digest": "f" * 64})
    told = refused(f"{MERGE} --natural tau.safetensors")
    assert re.search(r"^tau\.safetensors was trained from another base .*: give a checkpoint", told)


def test_a_pickle_is_taken_if_allowed(configure, refused):
    state = load_tensors(NATURAL)[0]
    torch.save({"state_dict": state}, "mine.pt")
    configure(finetune__natural__checkpoint="mine.pt")
    assert "--allow-pickle" in refused("finetune natural --out new")
    assert status("finetune", "natural", "--out", "new", "--allow-pickle") == 0
    taken = load_tensors("new/visual.safetensors")[0]
    assert taken.keys() == state.keys()
    assert all(torch.equal(taken[name], value) for name, value in state.items())
