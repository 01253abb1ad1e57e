"""What a question about scaling is answered with: the document that ``sim scaling`` prints as JSON or as text.

All its numbers are in SI, and None where a law has no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sim.laws.scaling import LAWS, Hardware, Law, distance, fit_power_law, training_compute, training_state

MFU: Final = 0.4
"""Share of the peak that training uses, where none is given."""
MFU_SOURCE: Final = "Llama 3.1 405B reached 0.38 to 0.43 in BF16 (arXiv:2407.21783)"


@dataclass(frozen=True, slots=True)
class Size:
    """Parameters that a token meets: with the token tables, and without, as Kaplan counts."""

    label: str
    parameters: float
    without_embeddings: float
    mixture: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: a budget in FLOP, a size, an amount of data, hardware and what it is, and the laws."""

    budget: float | None
    budget_as: str | None
    size: Size | None
    tokens: float | None
    hardware: Hardware | None
    gpu: dict[str, Any] | None
    laws: tuple[str, ...]

    def allocation(self) -> tuple[float | None, float | None]:
        """Parameters and tokens: given, or what the budget affords of one where the other is given."""
        parameters = None if self.size is None else self.size.parameters
        tokens = self.tokens
        if self.budget is not None and parameters is not None and tokens is None:
            tokens = self.budget / (6 * parameters)
        elif self.budget is not None and parameters is None and tokens is not None:
            parameters = self.budget / (6 * tokens)
        return parameters, tokens


# -- the answer ------------------------------------------------------------------------------------------


def answer(question: Question) -> dict[str, Any]:
    """The budget, the run and each law's optimum for it."""
    parameters, tokens = question.allocation()
    run = None
    if parameters is not None and tokens is not None:
        compute = training_compute(parameters, tokens)
        run = {
            "model": (question.size.label or None) if question.size else None,
            "parameters": parameters,
            "parameters_without_embeddings": question.size.without_embeddings if question.size else parameters,
            "tokens": tokens,
            "compute_flop": compute,
            "tokens_per_parameter": tokens / parameters,
            "training": training_state(tokens / parameters),
            "share_of_budget": None if question.budget is None else compute / question.budget,
            **_spent(question.hardware, compute),
        }
    laws = {name: _by_law(LAWS[name], question, run) for name in question.laws}
    budget = None
    if question.budget is not None:
        spent = _spent(question.hardware, question.budget)
        budget = {"given_as": question.budget_as, "compute_flop": question.budget, **spent}
    document = {"budget": budget, "hardware": question.gpu, "run": run, "laws": laws}
    return document | {"warnings": _warnings(question, document), "notes": _notes(question, run is not None)}


def _spent(hardware: Hardware | None, compute: float) -> dict[str, float | None]:
    if hardware is None:
        return {"gpu_hours": None, "days": None, "usd": None}
    return {
        "gpu_hours": hardware.gpu_hours(compute),
        "days": hardware.days(compute),
        "usd": hardware.usd(compute),
    }


def _by_law(law: Law, question: Question, run: dict[str, Any] | None) -> dict[str, Any]:
    """One law's optimum, its exponents, and what it says of the run."""
    frontier, found = law.frontier, None
    if run is not None:
        n = run["parameters" if law.counts_embeddings else "parameters_without_embeddings"]
        far = distance(law, n, run["tokens"])
        best, asked = far.optimum, (n, run["tokens"])
        found = {
            "parameters": n, "loss": far.loss, "loss_excess": far.excess, "least_compute_flop": far.least_compute,
            "compute_saved": far.saved, "parameters_over_optimum": n / best.parameters,
            "tokens_over_optimum": run["tokens"] / best.tokens,
        }  # fmt: skip
    else:
        if question.budget is not None:
            best = frontier.optimum(question.budget)
        elif question.size is not None:
            size = question.size
            best = frontier.at_parameters(size.parameters if law.counts_embeddings else size.without_embeddings)
        else:
            assert question.tokens is not None
            best = frontier.at_tokens(question.tokens)
        asked = (best.parameters, best.tokens)
    return {
        "source": law.source,
        "optimum": {
            "parameters": best.parameters, "tokens": best.tokens, "compute_flop": best.compute,
            "tokens_per_parameter": best.tokens_per_parameter, "loss": law.best_loss(best.compute),
            **_spent(question.hardware, best.compute),
        },
        "exponents": {"parameters": frontier.exponent, "tokens": frontier.token_exponent},
        "ten_times_compute": {"parameters": 10**frontier.exponent, "tokens": 10**frontier.token_exponent},
        "run": found,
        "beyond_fit": {
            "parameters": law.fitted_parameters.beyond(asked[0]), "tokens": law.fitted_tokens.beyond(asked[1]),
        },
    }  # fmt: skip


def _warnings(question: Question, document: dict[str, Any]) -> list[str]:
    """What a reader must not miss: training far from 20 tokens a parameter, extrapolation, mixtures, overspending."""
    warnings, run = [], document["run"]
    if run is not None:
        ratio = run["tokens_per_parameter"]
        if run["training"] == "under-trained":
            warnings.append(f"under-trained by the rule of 20: {figure(ratio)} tokens a parameter")
        elif run["training"] == "over-trained":
            warnings.append(f"over-trained by the rule of 20: {figure(ratio)} tokens a parameter; less training "
                            "reaches this loss with a larger model, which costs more to serve")  # fmt: skip
        share = run["share_of_budget"]
        if share is not None and share > 1 + 1e-9:
            warnings.append(f"the run takes {figure(share)} times the budget")
    beyond = []
    for name, law in document["laws"].items():
        times = {letter: law["beyond_fit"][key] for letter, key in (("N", "parameters"), ("D", "tokens"))}
        if parts := [f"{letter} {factor(value)}" for letter, value in times.items() if value]:
            beyond.append(f"{name} {', '.join(parts)}")
    if beyond:
        warnings.append(f"extrapolated beyond the largest N and D fitted: {'; '.join(beyond)}")
    if question.size is not None and question.size.mixture:
        warnings.append("a mixture of experts: N is the parameters that a token meets; the laws are of dense models")
    return warnings


def _notes(question: Question, of_a_run: bool) -> list[str]:
    notes = ["loss is in nats a token on each law's own data and tokenizer: not comparable between laws, and it says "
             "nothing about quality"]  # fmt: skip
    if question.gpu is not None and question.gpu["mfu_assumed"]:
        notes.append(f"MFU {MFU} is assumed, --mfu sets it: {MFU_SOURCE}; failures and restarts are not in it")
    if "kaplan" in question.laws:
        counted = "kaplan counts no embeddings in N"
        notes.append(f"{counted}; its L(N, D) is of models trained to the end, its optimum of models stopped early, so "
                     "no excess is taken" if of_a_run else counted)  # fmt: skip
    if "20x" in question.laws:
        notes.append("20x is a rule without a loss")
    return notes


def fit(column: str, xs: Sequence[float], losses: Sequence[float], at: float | None) -> dict[str, Any]:
    """A power law through points, and what it predicts ``at`` a size beyond them. Raises ValueError where none fits."""
    found = fit_power_law(xs, losses)
    predicted = None
    if at is not None:
        predicted = {column: at, "loss": found.loss(at), "beyond_fit": found.fitted.beyond(at)}
    return {
        "fit": {"column": column, "points": found.points, "scale": found.scale, "exponent": found.exponent,
                "worst_error": found.worst, "smallest": found.fitted.low, "largest": found.fitted.high},
        "predicted": predicted,
    }  # fmt: skip


# -- words -----------------------------------------------------------------------------------------------


def figure(value: float) -> str:
    """Three significant figures."""
    if value >= 1e6 or value < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def factor(value: float) -> str:
    """A factor beyond the largest of a range, or below its smallest."""
    return f"{figure(value)}x" if value > 1 else f"{figure(1 / value)}x below the smallest"
