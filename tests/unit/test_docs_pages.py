"""The pages: commands that the command line takes, code that compiles, links with an end."""

import re
from pathlib import Path

import pytest
import typer

from pistole.cli import app
from pistole.params import check_page, check_schema, page_text
from tests.e2e.micro import ROOT
from tests.pages import FENCE, NAMES, PAGES, blocks, commands

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


ALL = [(name, words) for name, path in zip(NAMES, PAGES, strict=True) for words in commands(path)]


@pytest.mark.parametrize(("page", "words"), ALL, ids=lambda v: " ".join(v) if v else "")
def test_a_command_of_a_page_parses(page: str, words: list[str]):
    command = typer.main.get_command(app)
    rest = list(words)
    while hasattr(command, "commands"):
        command = command.commands[rest.pop(0)]
    command.make_context(command.name, rest)


def test_the_pages_have_commands():
    assert len(ALL) > 40
    assert {"docs/usage.md", "docs/tutorial.md", "docs/guides/merge-checkpoints.md"} <= {
        page for page, _ in ALL
    }


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_code_of_a_page_compiles(path: Path):
    for code in blocks(path, "python"):
        compile(code, path.name, "exec")


def anchors(path: Path) -> set[str]:
    """What a heading is called in a link, on the site and in the repository."""
    text = FENCE.sub("", path.read_text())
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", head.replace("`", "")).strip().lower() for head in heads]
    return {re.sub(r"\s+", "-", head) for head in plain}


@pytest.mark.parametrize("path", PAGES, ids=NAMES)
def test_links_of_a_page_lead_somewhere(path: Path):
    text = FENCE.sub("", path.read_text())
    for target in LINK.findall(text):
        if target.startswith(("http://", "https://")):
            continue
        place, _, anchor = target.partition("#")
        there = (path.parent / place) if place else path
        assert there.exists(), f"{target} in {path.name}"
        if anchor:
            assert anchor in anchors(there), f"{target} in {path.name}"


def test_the_menu_of_the_site_has_every_page():
    listed = set(re.findall(r"^ +- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    hooks = (ROOT / "docs/hooks.py").read_text()
    added = set(re.findall(r': "([\w/-]+\.md)",', hooks))
    own = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    parts = {page for page in own if page.startswith("method-parts/")}
    assert listed == (own - parts) | added


def test_what_is_generated_is_up_to_date(tmp_path):
    check_schema(ROOT / "workflow/schemas/params.schema.json")
    check_page(ROOT / "docs/parameters.md")
    page = tmp_path / "parameters.md"
    page.write_text(page_text().replace("kappa", "kapa"))
    with pytest.raises(ValueError, match="run `pistole schema`"):
        check_page(page)


def test_every_profile_is_told():
    names = sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml"))
    assert "demo" in names
    for page in ("README.md", "docs/usage.md"):
        rows = [line for line in (ROOT / page).read_text().splitlines() if line.startswith("| `")]
        missing = [name for name in names if not any(f"`{name}`" in row for row in rows)]
        assert not missing, f"{page}: {', '.join(missing)}"
