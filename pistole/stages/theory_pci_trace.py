"""Theory check ``pci_trace``: is PCI half the weighted Hessian trace over p, as Theorem 2 says?"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pistole.method.ball import layer_variances
from pistole.method.criticality import antithetic_pci
from pistole.params import Params
from pistole.progress import track
from pistole.seeds import derive
from pistole.stages.losses import Objective, calibration_budget
from pistole.stages.runtime import classifier, device_of, tower
from pistole.stages.slices import read_slice
from pistole.theory.correlation import Fit, fit
from pistole.theory.curvature import weighted_hutchinson_trace

Tensors = dict[str, Tensor]
Row = dict[str, Any]
GROUPS = [(model, inputs) for model in ("natural", "robust") for inputs in ("clean", "adversarial")]
RESAMPLES = 2000
RANKED, SLOPES = 0.5, (0.8, 1.25)  # what counts as agreement


def check(params: Params, artifacts: Path) -> tuple[list[Row], Row]:
    """Compare antithetic PCI with the Hutchinson trace of H_c, image by image, over eta.

    The trace is estimated once: it scales with eta^2 (docs/method.md A.5.3, E.2).

    Args:
        params: ``theory.pci_trace``, ``stability`` and ``attack.calibration`` are read.
        artifacts: folder of all artifacts.

    Returns:
        Rows per model, inputs, eta and image, and the summary.
    """
    device = device_of(params)
    base = artifacts / "base"
    knobs = params.theory.pci_trace
    images = read_slice(artifacts / "data" / params.data.finetune, "measure", knobs.samples)
    objective = Objective(
        classifier(base, images.dataset, device), images, params.stability.batch_size
    )
    rows = []
    for model, inputs in track(GROUPS, "theory pci_trace"):
        theta = tower(artifacts / "checkpoints" / model, base, device)
        pixels = objective.clean
        if inputs == "adversarial":
            seed = derive(params.seed, "theory", "pci_trace", model)
            pixels = objective.attacked(theta, calibration_budget(params), seed)
        rows += _rows(params, objective, theta, pixels, model, inputs)
    rows.sort(key=lambda row: (row["eta"], row["model"], row["inputs"], row["id"]))
    return rows, summarise(rows, params)


def _rows(
    params: Params, objective: Objective, theta: Tensors, pixels: Tensor, model: str, inputs: str
) -> list[Row]:
    knobs, stability = params.theory.pci_trace, params.stability
    place = {"ball": stability.ball, "perturb_1d": stability.perturb_1d}
    seed = derive(params.seed, "theory", "pci_trace", model, inputs)
    unit = layer_variances(theta, eta=1.0, dist=stability.pci.dist, **place)
    trace, error = _relative_trace(objective, theta, pixels, unit, knobs.probes, seed)
    before = objective.log_probs(theta, pixels).exp().tolist()
    rows = []
    for eta in knobs.etas:
        found = antithetic_pci(
            lambda point: objective.log_probs(point, pixels),
            theta,
            eta=eta,
            pairs=knobs.pairs,
            dist=stability.pci.dist,
            seed=seed,
            **place,
        )
        columns = (found.pci.tolist(), (trace * eta**2 / 2).tolist(), (error * eta**2 / 2).tolist())
        rows += [
            {
                "model": model,
                "inputs": inputs,
                "eta": eta,
                "id": name,
                "p": p,
                "pci": pci,
                "trace_over_2p": half,
                "standard_error": spread,
            }
            for name, p, pci, half, spread in zip(
                objective.images.ids, before, *columns, strict=True
            )
        ]
    return rows


def _relative_trace(
    objective: Objective, theta: Tensors, pixels: Tensor, unit: dict, probes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Return Tr_w(H_c) / p_c at eta = 1 and its standard error, per image."""
    # The function is p_c(theta) over its value here, so that a tiny p_c does not underflow.
    parts = []
    for batch in objective.batches():
        with torch.no_grad():
            before = objective.log_prob(theta, pixels, batch)

        def ratio(point: Tensors, batch: Tensor = batch, before: Tensor = before) -> Tensor:
            return torch.exp(objective.log_prob(point, pixels, batch) - before)

        parts.append(weighted_hutchinson_trace(ratio, theta, unit, probes=probes, seed=seed))
    return (
        torch.cat([part.trace for part in parts]).cpu(),
        torch.cat([part.standard_error for part in parts]).cpu(),
    )


def summarise(rows: list[Row], params: Params) -> Row:
    """Fit measured PCI on the trace's prediction, at the radius that the method uses.

    Args:
        rows: rows of the table.
        params: ``stability.eta``, ``theory.pci_trace`` and ``seed`` are read.

    Returns:
        Claim, measurement, verdict and the numbers behind it.
    """
    knobs = params.theory.pci_trace
    images = len({row["id"] for row in rows})
    # Not the radius that fits best: the one nearest to the method's own.
    eta = min(knobs.etas, key=lambda e: abs(math.log(e / params.stability.eta)))
    whole = _fit([row for row in rows if row["eta"] == eta], params)
    return {
        "claim": "PCI is half the weighted trace of the Hessian of p over p (Theorem 2)",
        "measurement": f"{images} images that the scores never saw, clean and adversarial, "
        f"at both sources: {knobs.pairs} antithetic pairs against {knobs.probes} Hutchinson "
        f"probes. The eta shown is the grid's nearest to stability.eta = {params.stability.eta}. "
        f"It holds if the 95% intervals say rank correlation above {RANKED} and slope within "
        f"{SLOPES[0]} to {SLOPES[1]}, fails if the rank correlation's interval holds 0",
        "verdict": _verdict(whole),
        "eta": eta,
        **_numbers(whole),
        "by_eta": [
            {"eta": e, **_numbers(_fit([row for row in rows if row["eta"] == e], params))}
            for e in knobs.etas
        ],
        "by_group": [
            {"model": model, "inputs": inputs, **_numbers(_fit(part, params))}
            for model, inputs in GROUPS
            if (part := _group(rows, eta, model, inputs))
        ],
    }


def _group(rows: list[Row], eta: float, model: str, inputs: str) -> list[Row]:
    wanted = (eta, model, inputs)
    return [row for row in rows if (row["eta"], row["model"], row["inputs"]) == wanted]


def _fit(rows: list[Row], params: Params) -> Fit:
    x, y = (
        torch.tensor([row[key] for row in rows], dtype=torch.float64)
        for key in ("trace_over_2p", "pci")
    )
    return fit(x, y, resamples=RESAMPLES, seed=derive(params.seed, "theory", "fit"))


def _verdict(whole: Fit) -> str:
    ranks, slopes = whole.spearman_ci95, whole.slope_ci95
    if ranks[0] > RANKED and slopes[0] >= SLOPES[0] and slopes[1] <= SLOPES[1]:
        return "holds"
    return "fails" if ranks[0] <= 0 else "undecided"


def _numbers(found: Fit) -> Row:
    return {
        "n": found.n,
        "spearman": found.spearman,
        "spearman_ci95": list(found.spearman_ci95),
        "slope": found.slope,
        "slope_ci95": list(found.slope_ci95),
        "r2": found.r2,
    }
