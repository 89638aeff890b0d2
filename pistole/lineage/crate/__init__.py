"""The run as a Provenance Run RO-Crate: a folder that explains itself to other tools.

The metadata are written as plain JSON-LD: a flat list of things, each with an id. That needs no
package; roc-validator checks the outcome in a test.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pistole.errors import UserError
from pistole.files import atomic_directory, write_json
from pistole.lineage import lockfile, receipts
from pistole.lineage.crate import actions
from pistole.lineage.crate.entities import METADATA, Graph
from pistole.lineage.hashing import files_of, md5_path

__all__ = ["write_crate"]


def write_crate(root: str | Path, out: Path, name: str, license_name: str) -> dict[str, int]:
    """Copy the sources and outputs of every stage beside a description of how they came about.

    Args:
        root: the project's folder.
        out: folder to write; it must not exist.
        name: title of the crate.
        license_name: licence of its content, a URL or words.

    Returns:
        Numbers of ``stages``, ``files`` and ``bytes``.

    Raises:
        UserError: the folder exists, or a file is not what dvc.lock records.
    """
    root = Path(root).resolve()
    if out.exists():
        raise UserError(f"{out} exists: remove it, or choose another folder")
    lock = lockfile.read(root)
    paths = {p: md5 for e in lock.values() for p, md5 in {**e["deps"], **e["outs"]}.items()}
    for path, md5 in paths.items():
        _verify(root, path, md5)
    found = {stage: receipts.find(root, stage, lockfile.key_of(e)) for stage, e in lock.items()}
    with atomic_directory(out) as folder:
        graph = Graph(name, license_name)
        files = _copy(root, folder, ["dvc.yaml", "dvc.lock", *paths])
        for path in ("dvc.yaml", "dvc.lock"):
            graph.add_path(path, [path], folder)
        for path in paths:
            graph.add_path(path, files[path], folder)
        actions.describe(graph, lock, _finished(found), sorted(paths))
        write_json(folder / METADATA, graph.document())
        copied = {file for some in files.values() for file in some}
        total = sum((folder / file).stat().st_size for file in copied)
    return {"stages": len(lock), "files": len(copied), "bytes": total}


def _finished(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {stage: receipt for stage, receipt in found.items() if receipt}


def _verify(root: Path, path: str, md5: str) -> None:
    if md5_path(root, path) != md5:
        raise UserError(f"{path} is not what dvc.lock records: run pistole audit")


def _copy(root: Path, folder: Path, paths: list[str]) -> dict[str, list[str]]:
    """Copy what lies in the project; data elsewhere is named, not copied.

    Returns:
        Path -> its files in the crate.
    """
    copied: dict[str, list[str]] = {}
    for path in paths:
        place = (root / path).resolve() if Path(path).is_absolute() else root / path
        if not place.is_relative_to(root) or ".." in Path(path).parts:
            copied[path] = []
            continue
        sources = files_of(root, path) if place.is_dir() else [place]
        copied[path] = sorted(source.relative_to(root).as_posix() for source in sources)
        for source in sources:
            target = folder / source.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                shutil.copyfile(source, target)
    return copied
