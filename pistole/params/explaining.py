"""What a key of params.yaml means, and the schema of all keys as JSON."""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pistole.errors import UserError
from pistole.params.schema import Params

Node = dict[str, Any]
MANY_NAMES = 24  # more than a line of a terminal can show
DIALECT = "https://json-schema.org/draft/2020-12/schema"


class Row(NamedTuple):
    """One key of params.yaml, explained."""

    key: str
    value: str
    unit: str
    bound: str
    description: str


def json_schema() -> Node:
    """Return the JSON schema (draft 2020-12) of params.yaml.

    Returns:
        The schema; equal code gives an equal schema.
    """
    return {"$schema": DIALECT} | Params.model_json_schema()


def schema_text() -> str:
    """Return the content of workflow/schemas/params.schema.json.

    Returns:
        Indented JSON with a newline at its end.
    """
    return json.dumps(json_schema(), indent=2) + "\n"


def check_schema(path: str | Path) -> None:
    """Compare the exported schema with the code.

    Args:
        path: the exported file.

    Raises:
        UserError: the file is missing or differs.
    """
    path = Path(path)
    if not path.is_file() or path.read_text(encoding="utf-8") != schema_text():
        raise UserError(f"{path} is not what pistole/params/schema.py says: run `pistole schema`")


def explain(key: str, params: Params | None = None) -> list[Row]:
    """Explain one key, or every key of a section.

    Args:
        key: dotted key, such as ``stability.kappa`` or ``stability``.
        params: where current values come from; without them values are left empty.

    Returns:
        A row per key.

    Raises:
        UserError: there is no such key.
    """
    rows = explain_all(params)
    found = [row for row in rows if row.key == key or row.key.startswith(f"{key}.")]
    if not found:
        near = nearest(key, [row.key for row in rows])
        raise UserError(f"{key} is no key of params.yaml: did you mean {near}?")
    return found


def explain_all(params: Params | None = None) -> list[Row]:
    """Explain every key, in the schema's order.

    Args:
        params: where current values come from; without them values are left empty.

    Returns:
        A row per key.
    """
    schema = json_schema()
    values = params.model_dump(mode="json", by_alias=True) if params else None
    return list(_rows(schema, schema, "", values))


def nearest(name: str, known: Iterable[str], cutoff: float = 0.0) -> str | None:
    """Find the known name most like another; capitals count for nothing.

    Args:
        name: what the user wrote.
        known: the valid names.
        cutoff: least similarity, 0 to 1.

    Returns:
        The nearest name, or None if none is as similar as ``cutoff``.
    """
    lower = {other.lower(): other for other in reversed(list(known))}
    close = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=cutoff)
    return lower[close[0]] if close else None


def one_of(names: Sequence[str], wrong: object = None) -> str:
    """Say which names there are, and of many only which one was probably meant.

    Args:
        names: the valid ones.
        wrong: what was written instead, if that is known.

    Returns:
        A phrase.
    """
    if len(names) <= MANY_NAMES:
        return f"one of {', '.join(names)}"
    if not isinstance(wrong, str):
        return f"one of {len(names)} names, {', '.join(names[:3])}, ..., listed in docs/merging.md"
    near = nearest(wrong, names)
    return f"did you mean {near}? docs/merging.md lists all {len(names)} names"


def resolve(node: Node, schema: Node) -> Node:
    """Follow a node's ``$ref``.

    Args:
        node: a node of the schema.
        schema: the whole schema.

    Returns:
        The node itself, or the one that it refers to.
    """
    return schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def bound(node: Node, schema: Node) -> str:
    """Say in words what a node of the schema lets through.

    Args:
        node: a node of the schema.
        schema: the whole schema.

    Returns:
        A phrase such as ``integer >= 1 and <= 9``.
    """
    node = resolve(node, schema)
    if "anyOf" in node:
        return " or ".join(bound(branch, schema) for branch in node["anyOf"])
    if "enum" in node:
        return one_of(node["enum"])
    if "const" in node:
        return node["const"]
    kind = node["type"]
    if kind == "array":
        items = node.get("prefixItems")
        many, item = (f"{len(items)} of", items[0]) if items else ("list of", node["items"])
        return f"{many} {bound(item, schema)}"
    if kind == "object" and "properties" in node:
        return f"section with {', '.join(node['properties'])}"
    if kind == "object" and "propertyNames" not in node:
        return f"dataset: {bound(node['additionalProperties'], schema)}"
    if kind == "object":
        return f"name: folder, {one_of(node['propertyNames']['enum'])}"
    words = {"boolean": "true or false", "null": "null", "string": "text"}
    return "fraction a/b" if "pattern" in node else words.get(kind) or f"{kind}{_range(node)}"


def _range(node: Node) -> str:
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
    return " and".join(f" {sign} {node[name]}" for name, sign in signs.items() if name in node)


def _rows(node: Node, schema: Node, place: str, value: Any) -> Iterator[Row]:
    inner = resolve(node, schema)
    if "properties" not in inner:
        valid = bound(inner, schema)
        shown = _shown(value, valid)
        yield Row(place.removeprefix("."), shown, node.get("unit", ""), valid, node["description"])
        return
    for name, child in inner["properties"].items():
        below = value[name] if isinstance(value, Mapping) else _Absent
        yield from _rows(child, schema, f"{place}.{name}", below)


class _Absent:
    """Marks a value that was not given; null is a value."""


def _shown(value: Any, valid: str) -> str:
    if value is _Absent:
        return ""
    if "fraction a/b" in valid:
        many = value if isinstance(value, list) else [value]
        text = ", ".join(f"{255 * one:g}/255" for one in many)
        return f"[{text}]" if isinstance(value, list) else text
    return value if isinstance(value, str) else json.dumps(value)
