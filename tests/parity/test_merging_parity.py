"""The merging rules give what mergekit and peft give, or differ for a reason that is stated."""

import pytest
import torch

from pistole.baselines.slerp import COLINEAR
from pistole.files import load_tensors
from tests.parity.make_merging_golden import COMMAND, FILE, PAGE, SEED
from tests.parity.merging_cases import (
    CASES,
    INTERPRETER,
    PYTHON,
    SHAPES,
    SIDES,
    Case,
    difference,
    inputs,
    package_results,
)
from tests.unit.baselines_models import Params, flat, same

TENSORS, MADE = load_tensors(FILE)
BY_NAME = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def below(prefix: str) -> Params:
    """The golden tensors below a prefix."""
    return {k.removeprefix(prefix): v for k, v in TENSORS.items() if k.startswith(prefix)}


BASE, VECTORS = below("base/"), [below(f"{side}/") for side in SIDES]


def check(case: Case, found: float) -> None:
    if case.deviates:
        assert found > 1e-3, "the package no longer deviates"
    else:
        assert found < 1e-6


def test_the_file_says_where_it_comes_from():
    assert MADE["made_by"].keys() == {"mergekit", "peft", "torch"}
    assert MADE["command"] == COMMAND
    for vector in VECTORS:
        models = {k: BASE[k] + v for k, v in vector.items()}
        assert same({k: models[k] - BASE[k] for k in BASE}, vector)
        assert len(flat(vector).abs().unique()) == len(flat(vector))
    page = PAGE.read_text(encoding="utf-8")
    for case in CASES:
        package = case.asked["package"]
        assert f"| `{case.name.removeprefix(package + '-')}` | {package} " in page
        assert case.deviates in page
    assert all(f"{name} {MADE['made_by'][name]}" in page for name in MADE["made_by"])


def test_the_inputs_reach_both_ways_of_slerp():
    models = [{k: BASE[k] + v[k] for k in BASE} for v in VECTORS]
    cosines = {
        name: torch.cosine_similarity(*(m[name].flatten() for m in models), dim=0)
        for name in SHAPES
    }
    assert cosines["near"] > COLINEAR
    assert all(value < COLINEAR for name, value in cosines.items() if name != "near")


@BY_NAME
def test_a_rule_gives_what_the_package_gave(case):
    check(case, difference(case, below(f"result/{case.name}/"), BASE, VECTORS))


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    if not PYTHON.exists():
        pytest.skip(f"no environment with mergekit and peft: {INTERPRETER} or .venv-parity")
    base, vectors = inputs(SEED + 1)
    return package_results(tmp_path_factory.mktemp("merging"), base, vectors)[0], base, vectors


@BY_NAME
def test_a_rule_gives_what_the_package_gives(case, live):
    results, base, vectors = live
    check(case, difference(case, results[case.name], base, vectors))
