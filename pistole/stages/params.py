"""Stage ``params`` and its commands: every key of params.yaml is checked before any work."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pistole.files import write_json, write_text
from pistole.params import (
    Params,
    check_page,
    check_schema,
    explain_all,
    list_profiles,
    load_params,
    page_text,
    schema_text,
    use_profile,
)
from pistole.params.methods import need_of
from pistole.progress import say


def run(params: Params, out: Path, needs: Path | None = None) -> None:
    """Write the token that all other stages wait for, and what the methods need prepared.

    The token's content never changes, so a changed parameter reruns only the stages that read it.
    The second file lets stages depend on the folder of all preparations when there is none.

    Args:
        params: the validated parameters (validation is what this stage is for).
        out: the token.
        needs: gets preparation -> methods of ``methods`` that read it.
    """
    write_text(out, "params.yaml is valid\n")
    if needs is None:
        return
    read: dict[str, list[str]] = {}
    for method in params.methods:
        need = need_of(method)
        if need is not None:
            read.setdefault(need, []).append(method)
    write_json(needs, read)


def show(file: Path, *, explain: bool, as_json: bool = False) -> None:
    """Validate a parameter file and print that it is valid, or what each key means.

    Args:
        file: the parameters.
        explain: print key, value, unit, bounds and description.
        as_json: print JSON: all values, or with ``explain`` a list of the keys.
    """
    params = load_params(file)
    if as_json:
        rows = [row._asdict() for row in explain_all(params)]
        values = rows if explain else params.model_dump(mode="json", by_alias=True)
        print(json.dumps(values, indent=2))
    elif not explain:
        say(f"{file} is valid (profile {params.profile})")
    else:
        table = Table("key", "value", "unit", "valid", "meaning", show_lines=True)
        for column in table.columns:
            column.overflow = "fold"  # a long key or bound is not cut off
        for row in explain_all(params):
            table.add_row(*(str(cell) for cell in row))
        Console().print(table)


def export_schema(file: Path, page: Path, *, check: bool) -> None:
    """Write the JSON schema and the page of all keys, or fail if what is written has drifted.

    Args:
        file: the schema.
        page: the page.
        check: compare, do not write.
    """
    if check:
        check_schema(file)
        check_page(page)
    else:
        write_text(file, schema_text())
        write_text(page, page_text())


def show_profiles(folder: Path, *, as_json: bool = False) -> None:
    """Print the profiles.

    Args:
        folder: where they are.
        as_json: print a JSON object from name to description.
    """
    if as_json:
        print(json.dumps(dict(list_profiles(folder)), indent=2))
        return
    table = Table("profile", "what it is", box=None)
    for name, about in list_profiles(folder):
        table.add_row(name, about)
    Console().print(table)


def use(name: str, folder: Path, target: Path) -> None:
    """Write params.yaml from a profile.

    Args:
        name: the profile.
        folder: where profiles are.
        target: the file to write.
    """
    use_profile(name, folder, target)
    say(f"{target} is now profile {name}")
