"""Outcomes of an evaluation that is still running, so that a killed one goes on where it stopped.

One line per attacked batch is appended to a file named by the digest of everything the outcomes
depend on; another model, other data, another attack or other code has another file. Batches are
cut as they were, so what was kept is what would be computed again, bit for bit. Images that belong
to a batch are in files beside it.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pistole.files import load_tensors, save_tensors


class Journal:
    """The outcomes of the batches so far.

    Attributes:
        path: of the file; None keeps nothing.
    """

    def __init__(
        self, folder: Path | None = None, bound_to: Mapping[str, Any] | None = None
    ) -> None:
        """Read what a killed evaluation left.

        Args:
            folder: for the file; None = keep nothing.
            bound_to: JSON-able values that the outcomes depend on.
        """
        self._known: dict[tuple, list[bool]] = {}
        self._images: dict[tuple, str] = {}
        self.path: Path | None = None
        if folder is None:
            return
        self._header = json.dumps(bound_to or {}, sort_keys=True)
        digest = hashlib.sha256(self._header.encode()).hexdigest()
        self.path = folder / f"evaluate-{digest[:32]}.jsonl"
        self._folder = self.path.with_suffix("")
        if self.path.is_file():
            self._read(self.path)

    def _read(self, path: Path) -> None:
        lines = path.read_bytes().split(b"\n")
        whole = lines[:-1]  # the last one was cut off by the kill, or is empty
        if not whole or whole[0] != self._header.encode():
            path.unlink()
            return
        for line in whole[1:]:
            entry = json.loads(line)
            key = (entry["eps"], entry["attempt"], tuple(entry["positions"]))
            if "images" in entry:
                if not (self._folder / entry["images"]).is_file():
                    continue  # somebody removed it: the batch is done again
                self._images[key] = entry["images"]
            self._known[key] = entry["right"]
        path.write_bytes(b"\n".join(whole) + b"\n")

    def __len__(self) -> int:
        """Return how many batches are known."""
        return len(self._known)

    def recall(self, eps: float, attempt: str, positions: Tensor) -> Tensor | None:
        """Return what became of a batch.

        Args:
            eps: radius, pixel range.
            attempt: name of the attack.
            positions: of the batch's samples.

        Returns:
            Which samples the model still got right, or None if that is not known.
        """
        known = self._known.get((eps, attempt, tuple(positions.tolist())))
        return None if known is None else torch.tensor(known, dtype=torch.bool)

    def images(self, eps: float, attempt: str, positions: Tensor) -> Tensor:
        """Return the images that were kept with a batch.

        Args:
            eps: radius, pixel range.
            attempt: name of the attack.
            positions: of the batch's samples.

        Returns:
            As given to :meth:`keep`.

        Raises:
            KeyError: the batch is not known, or was kept without images.
        """
        name = self._images[eps, attempt, tuple(positions.tolist())]
        return load_tensors(self._folder / name)[0]["images"]

    def keep(
        self,
        eps: float,
        attempt: str,
        positions: Tensor,
        right: Tensor,
        images: Tensor | None = None,
    ) -> None:
        """Append what became of a batch.

        Args:
            eps: radius, pixel range.
            attempt: name of the attack.
            positions: of the batch's samples.
            right: which samples the model still got right.
            images: to be found again with the batch.
        """
        if self.path is None:
            return
        new = not self.path.is_file()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        entry = {"eps": eps, "attempt": attempt, "positions": positions.tolist()}
        if images is not None:  # written before the line that names them
            place = hashlib.sha256(json.dumps(entry).encode()).hexdigest()[:32]
            entry["images"] = f"{place}.safetensors"
            save_tensors(self._folder / entry["images"], {"images": images})
        line = json.dumps(entry | {"right": right.tolist()})
        with self.path.open(
            "a", encoding="utf-8"
        ) as stream:  # one write: whole lines, or a cut one
            stream.write((self._header + "\n" if new else "") + line + "\n")


def forget(folder: Path) -> None:
    """Remove the journals of an evaluation whose outcomes are written elsewhere now.

    Args:
        folder: all files in it go, those of other models too.
    """
    shutil.rmtree(folder, ignore_errors=True)
