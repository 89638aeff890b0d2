"""The merging rules give what mergekit and peft give, or differ for a reason that is stated."""

import pytest
import torch

from pistole.baselines.slerp import COLINEAR
from pistole.files import load_tensors
from tests.parity.make_merging_golden import COMMAND, SEED
from tests.parity.merging_cases import (
    CASES,
    FILE,
    INTERPRETER,
    PYTHON,
    SHAPES,
    Case,
    difference,
    golden_inputs,
    inputs,
    package_results,
)
from tests.parity.merging_page import PAGE, golden_result
from tests.parity.official_cases import OFFICIAL, OFFICIAL_FILE, SOURCES
from tests.unit.baselines_models import flat, same

BASE, VECTORS = golden_inputs()


def check(case: Case, found: float) -> None:
    if case.deviates:
        assert found > 1e-3, "there is no deviation any more"
    else:
        assert found < 1e-6


def test_the_vectors_are_the_exact_differences_and_have_no_equal_magnitudes():
    for vector in VECTORS:
        models = {k: BASE[k] + v for k, v in vector.items()}
        assert same({k: models[k] - BASE[k] for k in BASE}, vector)
        assert len(flat(vector).abs().unique()) == len(flat(vector))


def test_the_files_and_the_page_say_where_they_come_from():
    made, page = load_tensors(FILE)[1], PAGE.read_text(encoding="utf-8")
    assert made["made_by"].keys() == {"mergekit", "peft", "torch"}
    assert made["command"] == COMMAND
    official = load_tensors(OFFICIAL_FILE)[1]
    assert {k: v for k, v in official["made_by"].items() if k != "torch"} == SOURCES
    for case in [*CASES, *OFFICIAL]:
        package = case.asked["package"]
        assert f"| `{case.name.removeprefix(package + '-')}` | {package} " in page
        assert case.deviates in page
    assert all(f"{name} {version}" in page for name, version in made["made_by"].items())
    assert all(source["commit"] in page for source in SOURCES.values())


def test_the_inputs_reach_both_ways_of_slerp():
    models = [{k: BASE[k] + v[k] for k in BASE} for v in VECTORS]
    cosines = {
        name: torch.cosine_similarity(*(m[name].flatten() for m in models), dim=0)
        for name in SHAPES
    }
    assert cosines["near"] > COLINEAR
    assert all(value < COLINEAR for name, value in cosines.items() if name != "near")


@pytest.mark.parametrize("case", [*CASES, *OFFICIAL], ids=lambda case: case.name)
def test_a_rule_gives_what_the_package_gave(case):
    check(case, difference(case, golden_result(case), BASE, VECTORS))


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    if not PYTHON.exists():
        pytest.skip(f"no environment with mergekit and peft: {INTERPRETER} or .venv-parity")
    base, vectors = inputs(SEED + 1)
    return package_results(tmp_path_factory.mktemp("merging"), base, vectors)[0], base, vectors


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_rule_gives_what_the_package_gives(case, live):
    results, base, vectors = live
    check(case, difference(case, results[case.name], base, vectors))
