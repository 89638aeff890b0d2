"""Where one dataset comes from."""

from dataclasses import dataclass
from typing import Literal

LAYOUTS = ("embedded", "wds", "folder", "torchvision", "huggingface")


@dataclass(frozen=True)
class Source:
    """One dataset's place and form.

    Attributes:
        name: the dataset.
        layout: one of ``LAYOUTS``.
        root: its folder or URL; for torchvision the folder that its class takes.
        resolution: side in px that images are resized (bicubic) and cropped to; None: as stored.
        names: folder with class names and templates that go before the registry's; None: the
            dataset's own folder, where it has one.
        templates: ``ensemble`` or ``single``.
    """

    name: str
    layout: str
    root: str
    resolution: int | None = None
    names: str | None = None
    templates: Literal["ensemble", "single"] = "ensemble"
