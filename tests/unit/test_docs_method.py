"""docs/method.md maps every equation to a function and a test that exist, and misses none."""

import ast
import re
from pathlib import Path

import pytest

from pistole.baselines.registry import METHODS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
TABLE = TEXT.partition("## Equation, function, test")[2].partition("\n## ")[0]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TABLE.splitlines()
    if line.startswith("|") and not line.startswith(("| section", "|---"))
]
ROOMS = ("method", "baselines", "theory", "robust")


def defined(path: Path) -> set[str]:
    """Names that a module defines at its top level or in its classes."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = [tree.body, *(n.body for n in tree.body if isinstance(n, ast.ClassDef))]
    names = {
        n.name for body in bodies for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)
    }
    return names | {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1][:40])
def test_functions_and_tests_of_the_table_exist(row: list[str]):
    _, _, functions, tests = row
    for place, names in re.findall(r"`([\w/]+\.py)(?:: ([^`]*))?`", functions):
        path = ROOT / "pistole" / place
        assert path.is_file(), place
        for name in filter(None, re.split(r",\s*", names)):
            assert name.split(".")[-1] in defined(path), f"{name} in {place}"
    found = re.findall(r"`([\w/]+(?:\.py)?/?)`", tests)
    assert found
    for place in found:
        assert (ROOT / "tests" / place).exists(), place


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_function_is_named(room: str):
    """A module that the table names without functions is named as a whole."""
    whole = set(re.findall(r"`([\w/]+\.py)`", TABLE))
    for path in sorted((ROOT / "pistole" / room).rglob("*.py")):
        place = path.relative_to(ROOT / "pistole").as_posix()
        if place in whole:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [
            n.name
            for n in tree.body
            if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")
        ]
        missing = [n for n in names if not re.search(rf"\b{n}\b", TABLE)]
        assert not missing, f"{place}: {', '.join(missing)}"


def test_the_page_of_merging_methods_lists_them_all():
    page = (ROOT / "docs" / "merging.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(\w+)` \|", page, flags=re.M))
    assert listed == {
        name for name, m in METHODS.items() if not m.matched and not name.endswith("_official")
    }
    for name in listed:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert (" yes " in row) == (f"{name}_official" in METHODS)
        knobs = METHODS[name].tuned if METHODS[name].has_axis else ()
        assert all(f"`{knob}`" in row for knob in knobs), row
