"""Bytes that a run needs, without its whole plan."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pistole.params import load_params
from pistole.plan import sizes
from pistole.plan.disk import Disk, needed, room
from pistole.plan.planning import make_plan
from pistole.plan.sizes import read_sizes
from pistole.plan.tower import read_tower
from tests.e2e.micro import ROOT, write_micro

# What the doctor needs of a plan; a module that is None cannot be imported.
WITHOUT_OPEN_CLIP = """
import sys
sys.modules["open_clip"] = sys.modules["scipy.stats"] = None
import pistole.doctor, pistole.plan.disk, pistole.plan.missing
"""


def test_the_header_says_what_the_built_tower_says(tmp_path: Path, monkeypatch):
    params = load_params(write_micro(tmp_path / "params.yaml"))
    tower = read_tower(params)
    monkeypatch.setattr("pistole.plan.tower.read_tower", None)  # it is not asked
    found = read_sizes(params)
    assert (found.parameters, found.embedding) == (tower.parameters, tower.embedding)
    assert found.buffers == tower.buffers == 0


@pytest.mark.parametrize("change", ["grams", "size", "absent"])
def test_where_the_header_does_not_do_the_tower_is_built(tmp_path: Path, monkeypatch, change):
    changes = {"grams": {"prepare__run": ["regmean"]}, "size": {"base__image_size": 64}}
    if change == "absent":
        monkeypatch.setattr(sizes, "EMBEDDED", tmp_path)
    params = load_params(write_micro(tmp_path / "params.yaml", **changes.get(change, {})))
    found = read_sizes(params)
    assert found == read_tower(params)
    assert found.grams > 0


def test_a_run_needs_what_its_plan_says(tmp_path: Path):
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    file = write_micro(tmp_path / "params.yaml")
    params = load_params(file)
    rows = make_plan(file, params, tmp_path).rows
    assert needed(file, params, tmp_path) == room(row.disk for row in rows) > 0


def test_what_is_aside_is_gone_before_the_next_stage():
    assert room([Disk(1, 20), Disk(2, 30), Disk(3)]) == 36


def test_the_doctor_does_not_wait_for_open_clip():
    subprocess.run([sys.executable, "-c", WITHOUT_OPEN_CLIP], check=True, cwd=ROOT)
