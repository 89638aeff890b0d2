"""dvc.lock as plain values: per stage the command, inputs, parameters and outputs."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from pistole.errors import UserError
from pistole.lineage.hashing import run_key

NAME = "dvc.lock"
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


class Entry(TypedDict):
    """One stage of dvc.lock; the same shape as in a receipt."""

    cmd: list[str]
    deps: dict[str, str]
    params: dict[str, dict[str, Any]]
    outs: dict[str, str]


def read(root: str | Path) -> dict[str, Entry]:
    """Read dvc.lock.

    Args:
        root: the project's folder.

    Returns:
        Stage -> entry.

    Raises:
        UserError: there is none, or it is not what DVC writes.
    """
    place = Path(root) / NAME
    if not place.is_file():
        raise UserError(f"{place} does not exist: run `dvc repro`, or commit what ran")
    return parse(place.read_text(encoding="utf-8"), str(place))


def parse(text: str, where: str = NAME) -> dict[str, Entry]:
    """Read the text of a dvc.lock.

    Args:
        text: the text; an empty one has no stages.
        where: what to call it in a message.

    Returns:
        Stage -> entry.

    Raises:
        UserError: it is not what DVC writes.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(text) or {}
        return {name: _entry(where, name, raw) for name, raw in content.get("stages", {}).items()}
    except (YAMLError, AttributeError, KeyError, TypeError) as error:
        told = " ".join(str(error).split())[:200]
        remedy = "restore it with `git checkout dvc.lock`"
        raise UserError(f"{where} is not what DVC writes ({told}): {remedy}") from None


def key_of(entry: Entry) -> str:
    """Name the inputs of an entry as its receipt and its MLflow run name them.

    Args:
        entry: the entry.

    Returns:
        64 hexadecimal digits.
    """
    return run_key(entry["cmd"], entry["deps"], entry["params"])


def _entry(where: str, name: str, raw: Mapping[str, Any]) -> Entry:
    cmd = raw["cmd"]
    deps, outs = (_hashes(where, name, raw.get(side, [])) for side in ("deps", "outs"))
    return Entry(
        cmd=cmd if isinstance(cmd, list) else [cmd],
        deps=deps,
        params=raw.get("params", {}),
        outs=outs,
    )


def _hashes(where: str, name: str, items: list[Mapping[str, Any]]) -> dict[str, str]:
    found = {}
    for item in items:
        md5 = item.get("md5")
        if not isinstance(md5, str) or not MD5.fullmatch(md5):
            what = f"{where}: {name}: md5 of {item['path']} is {md5!r}, no digest"
            raise UserError(f"{what}: restore it with `git checkout dvc.lock`")
        found[item["path"].rstrip("/")] = md5
    return found
