"""Make ``merging_golden.safetensors`` and ``docs/results/merging-parity.md``.

    make .venv-parity/.done && python -m tests.parity.make_merging_golden

mergekit and peft merge a small model in their own environment; the file holds the base, the two
vectors and what they gave, so that the tests need neither package.
"""

import tempfile
from pathlib import Path

from pistole.files import save_tensors, write_text
from tests.parity.merging_cases import CASES, SIDES, difference, inputs, package_results

FILE = Path(__file__).with_name("merging_golden.safetensors")
PAGE = Path(__file__).parents[2] / "docs" / "results" / "merging-parity.md"
COMMAND = "make .venv-parity/.done && python -m tests.parity.make_merging_golden"
SEED = 0
HEAD = """\
# Parity of the merging methods

What the merging rules give and what independent packages give, on one small model of {size}
coordinates without equal magnitudes ({versions}). mergekit is run through its command line,
peft's functions are called; random drops are theirs. Single precision rounds at about 1e-7 here.
`{command}`
makes this page and the golden file of `tests/parity/test_merging_parity.py`, which holds every row
without an explanation below 1e-6 and every other one above 1e-3; `make test-parity` runs the
packages themselves on other numbers.

| method | package | rule | weights | largest difference | explanation |
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
- mergekit's Breadcrumbs masks whole tensors, the official code rows (`variant`). No package has the
  latter, nor PCB and Consensus in this form: those are held against transcriptions of their
  definitions in fp64 (`tests/unit/test_baselines_*.py`).
"""


def main() -> None:
    """Run the packages and write both files."""
    base, vectors = inputs(SEED)
    with tempfile.TemporaryDirectory() as folder:
        results, versions = package_results(Path(folder), base, vectors)
    tensors = {f"base/{k}": v for k, v in base.items()}
    for side, vector in zip(SIDES, vectors, strict=True):
        tensors |= {f"{side}/{k}": v for k, v in vector.items()}
    for name, result in results.items():
        tensors |= {f"result/{name}/{k}": v for k, v in result.items()}
    save_tensors(FILE, tensors, {"made_by": versions, "command": COMMAND, "seed": SEED})
    rows = []
    for case in CASES:
        found = difference(case, results[case.name], base, vectors)
        rule = type(case.rule(results[case.name])).__name__.replace("Drawn", "Dare")
        package, weights = case.asked["package"], ", ".join(map(str, case.weights))
        rows.append(
            f"| `{case.name.removeprefix(package + '-')}` | {package} {versions[package]} "
            f"| `{rule}` | {weights} | {found:.0e} | {case.deviates} |"
        )
    head = HEAD.format(
        size=sum(v.numel() for v in base.values()),
        versions=f"torch {versions['torch']}",
        command=COMMAND,
    )
    write_text(PAGE, head + "\n".join(rows) + "\n" + TAIL)


if __name__ == "__main__":
    main()
