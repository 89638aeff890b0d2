"""Theory check ``pci_trace``: is PCI half the weighted Hessian trace over p, as Theorem 2 says?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pistole.method.ball import layer_variances, perturbation
from pistole.method.criticality import antithetic_pci
from pistole.models.zeroshot import functional_logits
from pistole.params import Params
from pistole.progress import counting
from pistole.seeds import derive, generator
from pistole.stages.losses import Objective
from pistole.stages.runtime import attack_budget, classifier, device_of, tower
from pistole.stages.slices import read_slice
from pistole.theory.curvature import second_directional_derivative, weighted_hutchinson_trace
from pistole.theory.identities import Error, chain_rule_error, zero_sum_error
from pistole.theory.pci_summary import Measured, Setting, nearest, summarise

Tensors = dict[str, Tensor]
Row = dict[str, Any]
MODELS = ("base", "natural", "robust", "merged")
INPUTS = ("clean", "adversarial")
RESAMPLES = 1000
FEW = 8  # images per group on which the identities are checked
IDENTITY_PROBES = 2


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
    places = {
        "base": base,
        "natural": artifacts / "checkpoints/natural",
        "robust": artifacts / "checkpoints/robust",
        "merged": artifacts / "merged/pistole",
    }
    rows, groups, errors = [], [], []
    steps = len(MODELS) * len(INPUTS) * (1 + len(knobs.etas))  # the trace, then every radius
    with counting("theory pci_trace", steps) as advance:
        for model in MODELS:
            theta = tower(places[model], base, device)
            for inputs in INPUTS:
                pixels = objective.clean
                if inputs == "adversarial":
                    seed = derive(params.seed, "theory", "pci_trace", model)
                    pixels = objective.attacked(theta, attack_budget(params, "calibration"), seed)
                group = _Group(params, objective, theta, pixels, model, inputs)
                groups.append(group.measured(advance))
                errors.append(group.identity_errors())
                rows += _rows(groups[-1], images.ids)
    rows.sort(key=lambda row: (row["eta"], row["model"], row["inputs"], row["id"]))
    about = Setting(
        etas=knobs.etas,
        method_eta=params.stability.eta,
        resamples=RESAMPLES,
        seed=derive(params.seed, "theory", "fit"),
        few=min(FEW, len(images)),
        chain_rule=_worst([chain for chain, _ in errors]),
        zero_sum=_worst([zero for _, zero in errors]),
    )
    return rows, summarise(groups, about)


class _Group:
    """Both sides of Theorem 2 at one model and kind of inputs."""

    def __init__(
        self,
        params: Params,
        objective: Objective,
        theta: Tensors,
        pixels: Tensor,
        model: str,
        inputs: str,
    ) -> None:
        self.params, self.objective, self.theta, self.pixels = params, objective, theta, pixels
        self.model, self.inputs = model, inputs
        self.seed = derive(params.seed, "theory", "pci_trace", model, inputs)
        stability = params.stability
        self.place = {
            "dist": stability.pci.dist,
            "ball": stability.ball,
            "perturb_1d": stability.perturb_1d,
        }
        self.unit = layer_variances(theta, eta=1.0, **self.place)
        self.before = objective.log_probs(theta, pixels)

    def measured(self, advance: Callable[[], None]) -> Measured:
        knobs = self.params.theory.pci_trace
        forms = self._relative_forms(knobs.probes)
        advance()
        pci = {}
        for eta in knobs.etas:
            pci[eta] = torch.stack([self._pci(eta, pair) for pair in range(knobs.pairs)]).cpu()
            advance()
        p = self.before.exp().cpu()
        return Measured(self.model, self.inputs, p, forms, pci, self._pair_form())

    def _pair_seed(self, pair: int) -> int:
        return derive(self.seed, "pair", pair)

    def _pci(self, eta: float, pair: int) -> Tensor:
        """PCI by one antithetic pair, so that the pairs' spread is known."""

        def log_prob(point: Tensors) -> Tensor:
            # The unperturbed values are the same for every pair and radius.
            if point is self.theta:
                return self.before
            return self.objective.log_probs(point, self.pixels)

        return antithetic_pci(
            log_prob, self.theta, eta=eta, pairs=1, seed=self._pair_seed(pair), **self.place
        ).pci

    def _pair_form(self) -> Tensor:
        """Delta^T H_c Delta / p at eta = 1 along the Delta of the first pair."""
        source = generator(self._pair_seed(0), "pci", 0)
        delta = perturbation(self.theta, 1.0, generator=source, **self.place)
        parts = [
            second_directional_derivative(self._ratio(batch), self.theta, delta)
            for batch in self.objective.batches()
        ]
        return torch.cat(parts).cpu()

    def _relative_forms(self, probes: int) -> Tensor:
        """v^T H_c v / p_c at eta = 1 per probe and image."""
        parts = []
        for batch in self.objective.batches():
            found = weighted_hutchinson_trace(
                self._ratio(batch), self.theta, self.unit, probes=probes, seed=self.seed
            )
            parts.append(found.forms)
        return torch.cat(parts, dim=1).cpu()

    def _ratio(self, batch: Tensor) -> Callable[[Tensors], Tensor]:
        """p_c(theta) over its value here, so that a tiny p_c does not underflow."""
        before = self.before[batch]
        return lambda point: torch.exp(self.objective.log_prob(point, self.pixels, batch) - before)

    def identity_errors(self) -> tuple[Error, Error]:
        """Errors of the chain rule and of the sum over all classes, on a few images."""
        few = torch.arange(min(FEW, len(self.objective.images)))
        images = self.pixels[few].to(self.objective.device)
        labels = self.objective.labels[few]

        def logits(point: Tensors) -> Tensor:
            return functional_logits(self.objective.model, point, images)

        def prob(point: Tensors) -> Tensor:
            # float64, as a tiny p would underflow here.
            return logits(point).double().softmax(-1)[few, labels]

        unit = layer_variances(self.theta, eta=self.params.stability.eta, **self.place)
        chain = chain_rule_error(
            prob,
            lambda point: -self.objective.log_prob(point, self.pixels, few),
            self.theta,
            unit,
            probes=IDENTITY_PROBES,
            seed=self.seed,
        )
        with torch.no_grad():
            p = logits(self.theta).softmax(-1)
        knobs = self.params.theory.pci_trace
        found = antithetic_pci(
            lambda point: logits(point).log_softmax(-1).flatten(),
            self.theta,
            eta=nearest(knobs.etas, self.params.stability.eta),
            pairs=knobs.pairs,
            seed=self.seed,
            **self.place,
        )
        return chain, zero_sum_error(found.pci.view_as(p), p)


def _worst(errors: list[Error]) -> Error:
    return Error(max(e.absolute for e in errors), max(e.relative for e in errors))


def _rows(group: Measured, ids: list[str]) -> list[Row]:
    rows = []
    for eta in group.pci:
        found = group.at(eta)
        columns = {
            "p": group.p,
            "pci": found.y.mean(0),
            "pci_error": _error(found.y),
            "trace_over_2p": found.x.mean(0),
            "trace_error": _error(found.x),
            "pair_pci": found.y[0],
            "pair_form_over_2p": group.pair_form * (eta**2 / 2),
        }
        about = {"model": group.model, "inputs": group.inputs, "eta": eta}
        values = [[None] * len(ids) if c is None else c.tolist() for c in columns.values()]
        rows += [
            {**about, "id": name, **dict(zip(columns, cells, strict=True))}
            for name, *cells in zip(ids, *values, strict=True)
        ]
    return rows


def _error(repeats: Tensor) -> Tensor | None:
    """Standard error of the mean over the repeats; None with a single one."""
    return None if len(repeats) < 2 else repeats.std(0) / len(repeats) ** 0.5
