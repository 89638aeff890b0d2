"""Record what the ensemble's attempts really meet, from inside it."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pistole.plan.survival import Attempt
from pistole.robust.cascade import Cascade
from pistole.robust.victim import EarlyExit


@dataclass
class Record:
    """Attempts batch by batch, and the images that only an attack's last iterate broke."""

    attempts: list[Attempt] = field(default_factory=list)
    late: int = 0


@contextlib.contextmanager
def recorded() -> Iterator[Record]:
    """Yield a record that is filled while the block runs."""
    record, exits = Record(), []  # of the attack that runs: the iterate that each image left at
    survive, see, start = Cascade._survive, EarlyExit._record, EarlyExit.__init__

    def begin(self: EarlyExit, *arguments: Any) -> None:
        start(self, *arguments)
        exits.clear()
        self.seen = 0

    def watch(self: EarlyExit, *arguments: Any) -> None:
        before = int(self._inside.sum())
        see(self, *arguments)
        left = before - int(self._inside.sum())
        last = self._left == 0
        self.seen += not last  # iterates with a gradient
        exits.extend([self.seen] * left)
        record.late += last * left

    def judge(self: Cascade, name: str, *arguments: Any) -> Any:
        right = survive(self, name, *arguments)
        broken = int((~right).sum())
        kind = name.partition("/")[0]
        if kind.startswith("apgd"):
            assert len(exits) == broken
        mean = sum(exits) / broken if kind.startswith("apgd") and broken else 0
        record.attempts.append(Attempt(kind, len(right), broken, mean))
        return right

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cascade, "_survive", judge)
        patch.setattr(EarlyExit, "_record", watch)
        patch.setattr(EarlyExit, "__init__", begin)
        yield record
