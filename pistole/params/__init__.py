"""params.yaml: its schema, how it is read, explained, and written from a profile."""

from pistole.params.explaining import (
    Row,
    check_schema,
    explain,
    explain_all,
    json_schema,
    schema_text,
)
from pistole.params.methods import METHODS, PREPARATIONS
from pistole.params.page import check_page, page_text
from pistole.params.profiles import find_profile, list_profiles, use_profile
from pistole.params.reading import load_params
from pistole.params.schema import CHECKS, SOURCES, Params

__all__ = [
    "CHECKS",
    "METHODS",
    "PREPARATIONS",
    "SOURCES",
    "Params",
    "Row",
    "check_page",
    "check_schema",
    "explain",
    "explain_all",
    "find_profile",
    "json_schema",
    "list_profiles",
    "load_params",
    "page_text",
    "schema_text",
    "use_profile",
]
