"""The code on the pages of the documentation."""

import re
import shlex
from pathlib import Path

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path: Path, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(path.read_text()) if kind == language]


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
