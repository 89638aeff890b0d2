"""What is known of the datasets before any of them is listed."""

from dataclasses import dataclass
from pathlib import Path

from pistole.data.registry import registry
from pistole.data.tasks import open_task
from pistole.data.world.tasks import task
from pistole.errors import UserError
from pistole.params import Params
from pistole.stages.sources import source_of


@dataclass(frozen=True)
class About:
    """A dataset's text side.

    Attributes:
        classes: number of class names; None if not known.
        templates: number of templates; None if not known.
    """

    classes: int | None
    templates: int | None

    @property
    def prompts(self) -> int | None:
        """Texts that the base encodes for it."""
        if self.classes is None or self.templates is None:
            return None
        return self.classes * self.templates


def read_tasks(params: Params) -> dict[str, About]:
    """Look up class names and templates of every dataset, where they are there.

    Args:
        params: ``data`` and ``datasets`` are read.

    Returns:
        dataset -> what is known of it.
    """
    return {name: _about(params, name) for name in params.datasets}


def _about(params: Params, name: str) -> About:
    source = source_of(params.data, name)
    if source.layout == "embedded":
        world = task(name)
        return About(len(world.classnames), len(world.templates))
    # Other layouts may be on the network: only the registry and plain folders are asked.
    if source.layout == "wds" and Path(source.root).is_dir():
        try:
            folder = open_task(source)
        except UserError:  # broken or incomplete: its stage will tell
            return About(None, None)
        return About(len(folder.classnames), len(folder.templates))
    if name in registry():
        single = source.templates == "single"
        return About(registry()[name].classes, 1 if single else registry()[name].template_count)
    return About(None, None)
