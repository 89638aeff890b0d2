"""Write the environment files that are made from the lock, or check that they are up to date.

    python envs/generate.py            # after make lock
    python envs/generate.py --check    # in make lint

Both files install envs/runtime.txt with its hashes, and hold its digest so that a file of another
lock is noticed. Neither conda nor Apptainer is on the machines that test this project: the files
say so, and only their content is checked.
"""

import argparse
import hashlib
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "3.11"  # what the locks are resolved for, as the oldest
LOCK = "envs/runtime.txt"

CONDA = """\
# conda: the same packages by the same hashes. Made from {lock} by envs/generate.py.
# Not built where this project is tested (there is no conda); a report is welcome.
#
#   PIP_NO_DEPS=1 conda env create --file envs/environment.yaml
#   conda activate pistole
#   pip install --no-deps --no-build-isolation --editable .
#
# PIP_NO_DEPS: the lock is complete, and one package asks for an older requests than it needs.
# sha256 of {lock}: {digest}
name: pistole
channels: [conda-forge, nodefaults]
dependencies:
  - python={python}
  - pip
  - git
  - make
  - pip:
      - -r runtime.txt
variables:
  PYTHONHASHSEED: "0"
"""

APPTAINER = """\
# Apptainer (Singularity): the same packages by the same hashes. Made from {lock} by
# envs/generate.py. Not built where this project is tested (there is no Apptainer); a report is
# welcome.
#
#   apptainer build pistole.sif envs/pistole.def        # in the project's folder
#   apptainer run --nv pistole.sif doctor               # --nv: with the host's NVIDIA driver
#   apptainer exec --nv pistole.sif dvc repro
Bootstrap: docker
From: python:{python}-slim-bookworm

%labels
    org.opencontainers.image.title pistole
    org.opencontainers.image.version {version}
    org.opencontainers.image.licenses MIT

%files
    {lock} /opt/pistole/{lock}
    envs/runtime.in /opt/pistole/envs/runtime.in
    pyproject.toml /opt/pistole/pyproject.toml
    README.md /opt/pistole/README.md
    LICENSE /opt/pistole/LICENSE
    pistole /opt/pistole/pistole

%post
    set -eu
    cd /opt/pistole
    echo "{digest}  {lock}" | sha256sum --check
    apt-get update
    apt-get install --yes --no-install-recommends git make
    rm -rf /var/lib/apt/lists/*
    pip install --no-cache-dir --no-deps --require-hashes --requirement {lock}
    pip install --no-cache-dir --no-deps --no-build-isolation .

%environment
    export PYTHONHASHSEED=0

%runscript
    exec pistole "$@"

%test
    pistole --version
"""

FILES = {"envs/environment.yaml": CONDA, "envs/pistole.def": APPTAINER}


def texts(root: Path = ROOT) -> dict[str, str]:
    """Make the files.

    Args:
        root: the project's folder.

    Returns:
        Path -> content.
    """
    with (root / "pyproject.toml").open("rb") as stream:
        version = tomllib.load(stream)["project"]["version"]
    digest = hashlib.sha256((root / LOCK).read_bytes()).hexdigest()
    values = {"lock": LOCK, "digest": digest, "python": PYTHON, "version": version}
    return {path: template.format(**values) for path, template in FILES.items()}


def main(root: Path = ROOT) -> int:
    """Write or check.

    Args:
        root: the project's folder.

    Returns:
        Exit status: 1 if a file is not up to date.
    """
    parser = argparse.ArgumentParser(description="Environment files from the lock.")
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    check = parser.parse_args().check
    stale = []
    for path, text in texts(root).items():
        file = root / path
        if check:
            same = file.is_file() and file.read_text(encoding="utf-8") == text
            stale += [] if same else [path]
        else:
            file.write_text(text, encoding="utf-8")
    for path in stale:
        sys.stderr.write(f"{path} is not made from {LOCK}: run `python envs/generate.py`\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
