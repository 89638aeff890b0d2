"""Read params.yaml and tell all that is wrong with it at once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pistole.errors import UserError
from pistole.params.cross import cross_problems
from pistole.params.explaining import (
    Node,
    bound,
    explain_all,
    json_schema,
    nearest,
    one_of,
    resolve,
)
from pistole.params.schema import Params

Place = tuple[int | str, ...]
SIMILAR = 0.6


def load_params(path: str | Path) -> Params:
    """Read and check a params.yaml.

    Args:
        path: the file.

    Returns:
        The parameters.

    Raises:
        UserError: the file is missing, is not YAML, or has keys or values that are not valid; every
            problem is one line of the message.
    """
    raw = _read_yaml(Path(path))
    if not isinstance(raw, Mapping):
        raise UserError(f"{path} has no keys: write it with `pistole profile use NAME`")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        problems = _problems(error)
    problems += [f"{place}: {text}" for place, text in cross_problems(raw)]
    raise UserError("\n".join(f"{path}: {problem}" for problem in problems))


def _read_yaml(path: Path) -> Any:
    try:
        with path.open(encoding="utf-8") as stream:
            return YAML(typ="safe", pure=True).load(stream)
    except FileNotFoundError:
        remedy = "write it with `pistole profile use NAME`"
        raise UserError(f"{path} does not exist: {remedy}") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        text = " ".join(str(error.problem or error.context).split())
        raise UserError(f"{path}: {where}{text}: mend the YAML there") from None
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read ({text}): write it again as UTF-8 YAML") from None


def _problems(error: ValidationError) -> list[str]:
    """Return one line per key that is wrong; a union's several errors are one problem."""
    schema = json_schema()
    lines: dict[Place, str] = {}
    for item in error.errors(include_url=False):
        place, node, section = _locate(schema, item["loc"])
        if place:  # the root's own error is cross_problems over again
            lines.setdefault(place, _problem(item, place, node, section, schema))
    return list(lines.values())


def _problem(item: Any, place: Place, node: Node, section: Node, schema: Node) -> str:
    name, kind = _dotted(place), item["type"]
    if kind == "extra_forbidden":
        return f"{name}: unknown key, {_suggestion(place, section)}"
    if kind == "invalid_key" or item["loc"][-1] == "[key]":
        names = section.get("properties") or section["propertyNames"]["enum"]
        return f"{name}: unknown name ({one_of(list(names), place[-1])})"
    if kind == "missing":
        return f"{name}: missing, add it ({bound(node, schema)})"
    shown = _shorten(item["input"])
    names = resolve(node, schema).get("enum")
    if names:
        return f"{name}: {shown} is not valid ({one_of(names, item['input'])})"
    if kind == "value_error":
        return f"{name}: {shown}: {item['ctx']['error']}"
    return f"{name}: {shown} is not valid ({bound(node, schema)})"


def _suggestion(place: Place, section: Node) -> str:
    """Name the key that was probably meant: one like it beside it, else its namesake elsewhere."""
    known, name = section["properties"], str(place[-1])
    near = nearest(name, known, SIMILAR)
    if near is None:
        suffix = f".{name.lower()}"
        namesakes = [row.key for row in explain_all() if row.key.lower().endswith(suffix)]
        if namesakes:
            return f"did you mean {namesakes[0]}?"
        return f"the nearest is {nearest(name, known)} (valid here: {', '.join(known)})"
    return f"did you mean {_dotted((*place[:-1], near))}?"


def _locate(schema: Node, location: Place) -> tuple[Place, Node, Node]:
    """Follow an error's location: the part the schema knows, the node there, the node above."""
    node, section, place = schema, schema, ()
    for part in location:
        above = resolve(node, schema)
        inner = _child(above, part)
        if inner is None and "properties" not in above:
            break  # the name of a union's branch, or "[key]"
        node, section, place = inner or {}, above, (*place, part)
    return place, node, section


def _child(node: Node, part: int | str) -> Node | None:
    if "anyOf" in node:
        return next((found for branch in node["anyOf"] if (found := _child(branch, part))), None)
    if isinstance(part, int) and node.get("type") == "array":
        return node["items"] if "items" in node else node["prefixItems"][0]
    return node.get("properties", {}).get(part) or node.get("additionalProperties") or None


def _dotted(place: Place) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


def _shorten(value: object, limit: int = 60) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
