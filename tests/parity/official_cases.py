"""What the authors' own functions are asked to merge, and our rule for the same."""

from pathlib import Path

from pistole.baselines.breadcrumbs import Breadcrumbs
from pistole.baselines.consensus import Consensus
from pistole.baselines.pcb import Pcb
from pistole.baselines.ties import Ties
from tests.parity.merging_cases import Case

OFFICIAL_FILE = Path(__file__).with_name("official_golden.safetensors")
SOURCES = {
    "ties": {
        "repository": "prateeky2806/ties-merging",
        "path": "src/ties_minimal.ipynb",
        "commit": "a4cdf2b88562e984796e9da44c1a8c679fdafe70",
    },
    "pcb": {
        "repository": "duguodong7/pcb-merging",
        "path": "pcb-merging.py",
        "commit": "31fa2dc446704b59fb7925ff70fbc65ecb2ae012",
    },
    "tall_masks": {
        "repository": "nik-dim/tall_masks",
        "path": "src/utils/tallmask_utils.py",
        "commit": "088dc816af7107cd629382774e2d060145d58996",
    },
    "breadcrumbs": {
        "repository": "rezazzr/breadcrumbs",
        "path": "src/task_vectors.py",
        "commit": "4a183d62a44ca5c313c039849619ffa49acbbbc3",
    },
}


def official(source: str, **options: float | str) -> dict:
    """A call of the functions of one source."""
    return {"package": "official", "source": source, "options": options}


TOP, MORE = {"reset_thresh": 20, "merge_func": "dis-mean"}, 74.5 / 369  # of 369: 73, then 74
OFFICIAL = [
    Case(
        name="official-ties",
        asked=official("ties", **TOP),
        rule=lambda kept: Ties(),
        deviates="keeps one coordinate more of every vector",
    ),
    Case(
        name="official-ties-one-more",
        asked=official("ties", **TOP),
        rule=lambda kept: Ties(density=MORE),
    ),
    Case(
        name="official-ties-sum",
        asked=official("ties", **TOP | {"merge_func": "dis-sum"}),
        rule=lambda kept: Ties(density=MORE, reduce="sum"),
    ),
    Case(
        name="official-pcb",
        asked=official("pcb", pcb_ratio=0.1),
        rule=lambda kept: Pcb(),
    ),
    Case(
        name="official-pcb-few",
        asked=official("pcb", pcb_ratio=0.05),
        rule=lambda kept: Pcb(ratio=0.05),
    ),
    *(
        Case(
            name=f"official-consensus-{agree}",
            asked=official("tall_masks", lam=0.4, agree=agree),
            rule=lambda kept, agree=agree: Consensus(agree=agree, scaling=1),
        )
        for agree in (1, 2)
    ),
    Case(
        name="official-breadcrumbs",
        asked=official("breadcrumbs", top_k_keep=0.4, top_k_remove=0.2),
        rule=lambda kept: Breadcrumbs(gamma=0.2, keep=0.4, scaling=1),
    ),
]
