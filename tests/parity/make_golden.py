"""Make ``golden.safetensors``: what the reference AutoAttack breaks of a small net's images.

    pip install --no-deps --target FOLDER pyautoattack==0.2.0
    PYTHONPATH=FOLDER:. python -m tests.parity.make_golden

Each attack runs alone, on all images, with the reference's own code and seed 0; the file holds the
net, the images and, per attack, which images are still right. No test needs pyautoattack.
"""

import importlib.metadata
import logging
from pathlib import Path

from pistole.files import save_tensors
from tests.unit.robust_models import pictures, trained_net

FILE = Path(__file__).with_name("golden.safetensors")
EPS, STEPS, QUERIES, TARGETS, IMAGES = 0.065, 100, 1000, 4, 60


def main() -> None:
    """Run the four attacks and write the file."""
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from pyautoattack.fab_pt import FABAttack_PT
    from pyautoattack.square import SquareAttack

    net, (x, y) = trained_net(), pictures(IMAGES)
    right = net(x).argmax(1) == y
    x, y = x[right], y[right]
    common = {"norm": "Linf", "eps": EPS, "seed": 0, "device": "cpu", "n_restarts": 1}
    steps = {**common, "n_iter": STEPS}
    logged = {"logger": logging.getLogger("golden")}
    ce = APGDAttack(net, loss="ce", **steps, **logged)
    targeted = APGDAttack_targeted(net, n_target_classes=TARGETS, **steps, **logged)
    fab = FABAttack_PT(net, n_target_classes=TARGETS, **steps)
    fab.targeted = True
    square = SquareAttack(net, p_init=0.8, n_queries=QUERIES, resc_schedule=False, **common)
    outcomes = {}
    for name, attack in {"apgd_ce": ce, "apgd_t": targeted, "fab_t": fab, "square": square}.items():
        found = attack.perturb(x, y)
        found = found[1] if isinstance(found, tuple) else found
        assert (found - x).abs().max() <= EPS + 1e-6
        outcomes[f"right/{name}"] = net(found).argmax(1) == y
        print(name, int(outcomes[f"right/{name}"].sum()), "of", len(x))
    tensors = {f"net/{name}": value for name, value in net.state_dict().items()}
    tensors |= {"x": x, "y": y, **outcomes}
    versions = {name: importlib.metadata.version(name) for name in ("pyautoattack", "torch")}
    effort = {"eps": EPS, "steps": STEPS, "queries": QUERIES, "targets": TARGETS, "seed": 0}
    save_tensors(FILE, tensors, {"made_by": versions, **effort})


if __name__ == "__main__":
    main()
