"""The schema itself: every key is explained, bounded, and exported without drift."""

import json
import re
from pathlib import Path

import pytest

from pistole.errors import UserError
from pistole.params import check_schema, explain, explain_all, json_schema, schema_text
from pistole.params.explaining import resolve

LOWER, UPPER = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}


def keys_of(node, schema, place=""):
    """Yield (dotted key, property as written) for sections and leaves alike."""
    for name, child in resolve(node, schema).get("properties", {}).items():
        yield f"{place}{name}", child
        yield from keys_of(child, schema, f"{place}{name}.")


def numbers_in(node):
    """Yield the number types inside one leaf, through unions and lists."""
    if node.get("type") in ("number", "integer"):
        yield node
    for part in [*node.get("anyOf", []), *node.get("prefixItems", []), node.get("items", {})]:
        if part:
            yield from numbers_in(part)


def test_every_key_has_a_description_and_every_number_a_unit_and_bounds():
    schema = json_schema()
    keys = dict(keys_of(schema, schema))
    assert len(keys) > 90
    for key, node in keys.items():
        assert len(node.get("description", "")) >= 5, key
        numbers = list(numbers_in(node))
        assert not numbers or node.get("unit"), key
        for number in numbers:
            assert LOWER & number.keys(), key
            assert UPPER & number.keys(), key


def test_unknown_keys_are_refused_in_every_section():
    schema = json_schema()
    sections = [schema, *schema["$defs"].values()]
    assert all(part["additionalProperties"] is False for part in sections)
    assert all(set(part["required"]) == set(part["properties"]) for part in sections)


def test_schema_text_is_deterministic_json_of_draft_2020_12():
    assert schema_text() == schema_text()
    assert json.loads(schema_text())["$schema"].endswith("2020-12/schema")


def test_check_schema_tells_drift(tmp_path):
    file = tmp_path / "params.schema.json"
    with pytest.raises(UserError, match="run `pistole schema`"):
        check_schema(file)
    file.write_text(schema_text())
    check_schema(file)
    file.write_text(schema_text().replace('"maximum": 9,', '"maximum": 10,', 1))
    with pytest.raises(UserError, match="run `pistole schema`"):
        check_schema(file)


def test_explain_gives_bounds_in_words():
    (row,) = explain("attack.evaluate.apgd_t.targets")
    assert row[1:4] == ("", "classes", "integer >= 1 and <= 9")
    assert explain("merge.lambda")[0].bound == "selected or number >= 0 and <= 1"
    assert explain("base.std")[0].bound == "3 of number > 0 and <= 1 or null"
    assert explain("stability.pci.dist")[0].bound == "one of sphere, ball, gaussian"


def test_explain_of_a_section_gives_its_keys_in_order():
    assert [row.key for row in explain("merge")] == ["merge.lambda", "merge.rescale"]
    assert [row for row in explain_all() if row.key.startswith("merge.")] == explain("merge")


def test_explain_names_the_nearest_key():
    with pytest.raises(UserError, match=re.escape("did you mean stability.kappa?")):
        explain("stability.kapa")


def test_the_exported_file_is_up_to_date():
    check_schema(Path(__file__).parents[2] / "workflow/schemas/params.schema.json")
