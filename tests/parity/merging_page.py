"""Write ``docs/results/merging-parity.md`` from the golden files.

python -m tests.parity.merging_page
"""

from pathlib import Path

from torch import Tensor

from pistole.files import load_tensors, write_text
from tests.parity.merging_cases import CASES, FILE, Case, difference, golden_inputs
from tests.parity.official_cases import OFFICIAL, OFFICIAL_FILE, SOURCES

PAGE = Path(__file__).parents[2] / "docs" / "results" / "merging-parity.md"
HEAD = """\
# Parity of the merging methods

What the merging rules give, against mergekit, peft and the authors' own functions, on one small
model of {size} coordinates without equal magnitudes ({versions}). mergekit is run through its
command line, functions are called; random drops are theirs. Single precision rounds at about 1e-7
here. `python -m tests.parity.merging_page` makes this page from two golden files, made by
`{packages}`
and `{official}`
(FOLDER has the files named below). `tests/parity/test_merging_parity.py` holds every row without an
explanation below 1e-6 and every other one above 1e-3; `make test-parity` runs mergekit and peft
themselves on other numbers.

| case | of | rule | weights | largest difference | explanation |
|---|---|---|---|---|---|
"""
TAIL = """
What else differs by definition, not visible above:

- Trimming and ties: mergekit and peft keep exactly k coordinates and break ties as the sort falls;
  the rule keeps all that tie with the k-th, so that neither the order of tensors nor that of
  coordinates counts. The official TIES keeps one more.
- mergekit and peft trim every tensor for itself, the official TIES the whole vector (`scope`); the
  case `ties-vector` gives peft the whole vector as one tensor.
- A sum of exactly 0 is positive in both packages and takes the sign of the whole vector's majority
  in the official code (`zero_sign`).
- mergekit's Breadcrumbs masks whole tensors, the official code rows (`variant`).
- All rules are also held against transcriptions of their definitions in fp64
  (`tests/unit/test_baselines_*.py`).

The authors' functions:

"""


def golden_result(case: Case) -> dict[str, Tensor]:
    """What the package or the authors' code gave, and what it drew."""
    file, prefix = OFFICIAL_FILE if case in OFFICIAL else FILE, f"result/{case.name}/"
    tensors = load_tensors(file)[0]
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def row(case: Case, versions: dict[str, str]) -> str:
    """One line of the table."""
    result = golden_result(case)
    found = difference(case, result, *golden_inputs())
    rule = type(case.rule(result)).__name__.replace("Drawn", "Dare")
    package, weights = case.asked["package"], ", ".join(map(str, case.weights))
    version = versions.get(package, "code")
    return (
        f"| `{case.name.removeprefix(package + '-')}` | {package} {version} | `{rule}` "
        f"| {weights} | {found:.0e} | {case.deviates} |"
    )


def main() -> None:
    """Write the page."""
    packages, official = load_tensors(FILE)[1], load_tensors(OFFICIAL_FILE)[1]
    head = HEAD.format(
        size=sum(v.numel() for v in golden_inputs()[0].values()),
        versions=f"torch {packages['made_by']['torch']}",
        packages=packages["command"],
        official=official["command"],
    )
    rows = [row(case, packages["made_by"]) for case in [*CASES, *OFFICIAL]]
    sources = [f"- `{s['repository']}`, `{s['path']}` at `{s['commit']}`" for s in SOURCES.values()]
    write_text(PAGE, head + "\n".join(rows) + "\n" + TAIL + "\n".join(sources) + "\n")


if __name__ == "__main__":
    main()
