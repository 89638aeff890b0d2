"""Make ``merging_golden.safetensors``: what mergekit and peft give.

    make .venv-parity/.done
    python -m tests.parity.make_merging_golden && python -m tests.parity.merging_page

Both merge a small model in their own environment; the file holds the base, the two vectors and what
they were merged to, so that the tests need neither package.
"""

import tempfile
from pathlib import Path

from pistole.files import save_tensors
from tests.parity.merging_cases import FILE, SIDES, inputs, package_results

COMMAND = "make .venv-parity/.done && python -m tests.parity.make_merging_golden"
SEED = 0


def main() -> None:
    """Run the packages and write the file."""
    base, vectors = inputs(SEED)
    with tempfile.TemporaryDirectory() as folder:
        results, versions = package_results(Path(folder), base, vectors)
    tensors = {f"base/{k}": v for k, v in base.items()}
    for side, vector in zip(SIDES, vectors, strict=True):
        tensors |= {f"{side}/{k}": v for k, v in vector.items()}
    for name, result in results.items():
        tensors |= {f"result/{name}/{k}": v for k, v in result.items()}
    save_tensors(FILE, tensors, {"made_by": versions, "command": COMMAND, "seed": SEED})


if __name__ == "__main__":
    main()
