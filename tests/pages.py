"""The code on the pages of the documentation."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def section(path: Path, heading: str = "") -> str:
    """The text below a heading, with the headings below it; without one the whole page."""
    text = path.read_text(encoding="utf-8")
    if not heading:
        return text
    # A comment in a block is no heading.
    plain = FENCE.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)
    assert f"\n{heading}\n" in plain, f"{heading} in {path.name}"
    start = plain.index(f"\n{heading}\n") + len(heading) + 2
    depth = len(heading) - len(heading.lstrip("#"))
    end = re.search(rf"^#{{1,{depth}}} ", plain[start:], re.MULTILINE)
    return text[start : start + end.start()] if end else text[start:]


def fenced(text: str) -> list[tuple[str, str]]:
    """Language and text of every block."""
    return FENCE.findall(text)


def blocks(path: Path, language: str) -> list[str]:
    return [text for kind, text in fenced(path.read_text(encoding="utf-8")) if kind == language]


def commands(path: Path) -> list[list[str]]:
    """The words of every ``pistole`` line, shell variables and placeholders aside."""
    found = []
    for block in blocks(path, "console"):
        joined = block.replace("\\\n", " ")
        for line in re.findall(r"^\$ (pistole .*)$", joined, re.MULTILINE):
            words = shlex.split(line.partition("&&")[0], comments=True)
            if not any("$" in word for word in words):
                found.append(words[1:])
    return found
