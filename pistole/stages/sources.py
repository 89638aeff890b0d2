"""Where params.yaml says that a dataset is."""

from typing import TYPE_CHECKING

from pistole.data.registry import registry
from pistole.data.source import Source
from pistole.data.tasks import place_of
from pistole.errors import UserError

if TYPE_CHECKING:
    from pistole.params.schema import Data


def source_of(data: "Data", name: str) -> Source:
    """Find a dataset.

    Args:
        data: section ``data``; an entry of ``sources`` goes before ``root`` and ``layout``.
        name: the dataset.

    Returns:
        Its source, with the resolution of the registry where ``protocol`` asks for it.

    Raises:
        UserError: ``protocol`` is asked for a dataset that is not registered.
    """
    own = data.sources.get(name)
    layout = own.layout if own else data.layout
    root = own.root if own else place_of(data.root, name, layout)
    side = own.resolution if own else data.resolution
    if side == "protocol":
        if name not in registry():
            key = f"data.sources.{name}.resolution" if own else "data.resolution"
            raise UserError(
                f"{key} is 'protocol' but dataset {name!r} is not registered: give a number of "
                "px or null"
            )
        side = registry()[name].resolution
    return Source(name, layout, root, side, own.names if own else None, data.templates)
