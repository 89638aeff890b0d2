"""docs/parameters.md: every key of params.yaml as a page, made from the schema."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from pistole.errors import UserError
from pistole.params.explaining import Row, explain_all
from pistole.params.schema import Params

HEAD = """# Parameters

Every key of `params.yaml`, from the schema that checks the file; `pistole schema` writes this page.
All keys are required, so that the file always shows the whole experiment. A fraction is written
`4/255`. `pistole params --explain` prints the same with the values of a run, and with `--json` for
programs. What a key means in the method, and why its default is what it is:
[method.md](method.md). What a changed key runs again: [usage.md](usage.md).
"""
GENERAL = "Run"


def page_text() -> str:
    """Return the content of docs/parameters.md.

    Returns:
        Markdown; equal code gives an equal page.
    """
    return HEAD + "".join(_sections())


def check_page(path: str | Path) -> None:
    """Compare the page with the code.

    Args:
        path: the page.

    Raises:
        UserError: it is missing or differs.
    """
    path = Path(path)
    if not path.is_file() or path.read_text(encoding="utf-8") != page_text():
        raise UserError(f"{path} is not what pistole/params/schema.py says: run `pistole schema`")


def _sections() -> Iterator[str]:
    # Sections that follow each other are one: the keys without a section stand at several places.
    def section(row: Row) -> str:
        return row.key.partition(".")[0] if "." in row.key else GENERAL

    rows = sorted(explain_all(), key=lambda row: section(row) != GENERAL)
    for name, members in groupby(rows, key=section):
        field = Params.model_fields.get(name)
        about = f"{field.description[0].upper()}{field.description[1:]}.\n\n" if field else ""
        title = name if name == GENERAL else f"`{name}`"
        yield f"\n## {title}\n\n{about}| key | valid | unit | meaning |\n|---|---|---|---|\n"
        for row in members:
            key = row.key.removeprefix(f"{name}.")
            cells = (f"`{key}`", row.bound, "" if row.unit == "1" else row.unit, row.description)
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
