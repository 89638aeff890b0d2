"""What the shell offers for an argument or option: names that params.yaml here has.

A file that is missing or broken offers nothing; whether its values are right is not asked, since
the shell waits.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

PARAMS = Path("params.yaml")


def named(key: str) -> Callable[[], list[str]]:
    """Offer the names below a key of params.yaml.

    Args:
        key: of a list or a section, with dots.

    Returns:
        What Typer calls.
    """

    def offer() -> list[str]:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import YAMLError

        try:
            found: Any = YAML(typ="safe").load(PARAMS)
        except (OSError, YAMLError):
            return []
        for part in key.split("."):
            found = found.get(part, {}) if isinstance(found, dict) else {}
        return [str(name) for name in found] if isinstance(found, list | dict) else []

    return offer


def preparations() -> list[str]:
    """Offer what ``prepare.run`` may list.

    Returns:
        The names.
    """
    from pistole.params.methods import PREPARATIONS

    return list(PREPARATIONS)


def profiles() -> list[str]:
    """Offer the profiles of this folder.

    Returns:
        The names.
    """
    return sorted(path.stem for path in Path("profiles").glob("*.yaml"))


def rules() -> list[str]:
    """Offer the methods that merge files.

    Returns:
        The names.
    """
    from pistole.stages.methods import RULES

    return sorted(RULES)
