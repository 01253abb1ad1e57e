"""``sim scaling``: how many parameters and tokens for a budget, and how far a model is from that.

The options make a question, the question a document (what ``--json`` prints), and the document the text.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sim.errors import InputError, Problem

if TYPE_CHECKING:
    from sim.laws.scaling import Hardware, Law
    from sim.units import Dimension

LAW_NAMES = ("kaplan", "chinchilla", "chinchilla-refit", "20x")
MFU = 0.4
MFU_SOURCE = "Llama 3.1 405B reached 0.38 to 0.43 in BF16 (arXiv:2407.21783)"
LEAST, MOST = 1e12, 1e36
"""FLOP: a budget outside them is a slip of the pen."""
LABEL, WIDTH = 12, 100


@click.command("scaling")
@click.option("--compute", metavar="FLOP", help="Budget of training compute: 1e24, or with a unit: 3640 PF-days.")
@click.option("--days", metavar="N", help="Budget of time on --gpus of --gpu.")
@click.option("--usd", metavar="USD", help="Budget of money at --usd-per-gpu-hour on --gpu.")
@click.option("--gpu", metavar="ID", help="GPU of the catalogue; its dense 16-bit peak counts.")
@click.option("--gpus", metavar="N", help="How many.")
@click.option("--mfu", metavar="SHARE", help=f"Share of the peak that training uses.  [default: {MFU}]")
@click.option("--usd-per-gpu-hour", metavar="USD", help="Price of a GPU-hour.")
@click.option("--model", metavar="ID", help="Model of the catalogue, or a Hugging Face config.json.")
@click.option("--parameters", metavar="N", help="Size instead of a model: 70B or 70e9 (K, M, B, T).")
@click.option("--tokens", metavar="N", help="Training tokens: 2T or 2e12.")
@click.option("--law", type=click.Choice([*LAW_NAMES, "all"]), default="all", show_default=True, help="Which law.")
@click.option("--fit", metavar="CSV", help="Fit a power law to small models: columns parameters (or tokens, or "
              "compute) and loss; with --parameters and the like, predict a large one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")  # fmt: skip
def command(as_json: bool, **options: str | None) -> None:
    """Parameters, tokens and loss for a budget of compute, time or money, by Kaplan, Chinchilla and 20x.

    \b
    A budget alone:         the best size and data by each law.
    A model and --tokens:   the compute it takes, its loss, how far it is from the best.
    A model and a budget:   the tokens it affords, and the same.
    A model or tokens only: the data, or the size, that go with it.

    The laws predict the loss on their own data and tokenizer and nothing about quality. They were fitted to
    models of at most 16B parameters: beyond that they extrapolate, and the answer says how far.
    """
    if options["fit"] is not None:
        document, show = _fit(options), _fit_text
    else:
        document, show = _answer(_question(options)), _text
    click.echo(json.dumps(document, indent=1) if as_json else show(document))


# -- what is asked ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Size:
    """Parameters that a token meets: with the token tables, and without, as Kaplan counts."""

    label: str
    parameters: float
    without_embeddings: float
    mixture: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """The options, read: a budget in FLOP, a size, an amount of data, hardware and what it is, and the laws."""

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


class _Reader:
    """Reads options and collects what is wrong with them."""

    def __init__(self, options: dict[str, str | None]) -> None:
        self.options = options
        self.problems: list[Problem] = []

    def given(self, *names: str) -> list[str]:
        """Those of the options that are there, as they are written."""
        return [_option(name) for name in names if self.options[name] is not None]

    def problem(self, name: str | None, message: str, suggestion: str | None = None) -> None:
        """Something is wrong with an option, or with all of them."""
        self.problems.append(Problem(None, None, None, name and _option(name), message, suggestion))

    def number(self, name: str) -> float | None:
        """An option's value, or None and a problem."""
        from sim.units import UnitError, parse

        text = self.options[name]
        if text is None:
            return None
        try:
            value = parse(text, _dimensions()[name])
        except UnitError as error:
            self.problem(name, str(error))
            return None
        if value == 0.0:
            self.problem(name, "must be above zero")
            return None
        return value

    def found(self, name: str, look_up: Callable[[str], Any]) -> Any:
        """What the option's name stands for, or None and the problems of the look-up."""
        text = self.options[name]
        if text is None:
            return None
        try:
            return look_up(text)
        except InputError as error:
            for problem in error.problems:
                where = f"{problem.file}: " if problem.file else ""
                self.problem(name, where + problem.message, problem.suggestion)
        except OSError as error:
            self.problem(name, f"{text}: {error.strerror or error}")
        return None

    def finish(self) -> None:
        """Raise what was found."""
        if self.problems:
            raise InputError(dict.fromkeys(self.problems))


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _dimensions() -> dict[str, Dimension]:
    """What each option is read as; bare numbers will do everywhere, and counts take K, M, B and T."""
    from decimal import Decimal

    from sim.laws.scaling import PF_DAY
    from sim.units import FRACTION, USD, USD_PER_HOUR, Dimension

    one = {"": Decimal(1)}
    powers = {"K": 3, "M": 6, "B": 9, "T": 12}
    counts = one | {unit: Decimal(10) ** n for k, n in powers.items() for unit in (k, k.lower())}
    flop = one | {f"{prefix}FLOP": Decimal(10) ** n for prefix, n in {"": 0, "E": 18, "Z": 21, "Y": 24}.items()}
    flop |= dict.fromkeys(("PF-day", "PF-days"), Decimal(PF_DAY))

    def count(noun: str, example: str) -> Dimension:
        return Dimension("Count", noun, "", example, counts, 1e18, bare=True, whole=True)

    return {
        "compute": Dimension("Compute", "an amount of compute", "FLOP", "1e24", flop, MOST, bare=True),
        "days": Dimension("Days", "a number of days", "days", "30", one | {"days": Decimal(1)}, 1e6, bare=True),
        "usd": Dimension("Usd", USD.noun, "USD", "1000000", {**USD.units, **counts}, USD.limit, bare=True),
        "gpus": count("a number of GPUs", "1024"),
        "mfu": FRACTION,
        "usd_per_gpu_hour": Dimension("Price", "a price of a GPU-hour", "USD/h", "2.5",
                                      {**USD_PER_HOUR.units, **one, "USD": Decimal(1)}, 1e9, bare=True),
        "parameters": count("a number of parameters", "70B"),
        "tokens": count("a number of tokens", "2T"),
    }  # fmt: skip


def _question(options: dict[str, str | None]) -> Question:
    """Raises InputError with all that is wrong."""
    reader = _Reader(options)
    size, tokens = _size(reader), reader.number("tokens")
    _check_combination(reader)
    hardware, gpu = _hardware(reader)
    budget = _budget(reader, hardware)
    reader.finish()
    budget_as = next((name for name in ("compute", "days", "usd") if options[name] is not None), None)
    laws = LAW_NAMES if options["law"] in (None, "all") else (str(options["law"]),)
    question = Question(budget, budget_as, size, tokens, hardware, gpu, laws)
    if budget is not None and not LEAST <= budget <= MOST:
        size_of_it = f"{budget:.3g} FLOP is too {'small' if budget < LEAST else 'large'} a budget to train with"
        reader.problem(None, f"{size_of_it}: the laws are asked from {LEAST:.0e} to {MOST:.0e} FLOP")
    for value, thing in zip(question.allocation(), ("parameter", "token"), strict=True):
        if value is not None and value < 1:
            reader.problem(None, f"{budget:.3g} FLOP does not buy one {thing}")
    reader.finish()
    return question


def _check_combination(reader: _Reader) -> None:
    """What options need of each other."""
    budgets = reader.given("compute", "days", "usd")
    if len(budgets) > 1:
        reader.problem(None, f"{' and '.join(budgets)} are {len(budgets)} budgets: give one")
    if len(reader.given("model", "parameters")) > 1:
        reader.problem(None, "--model and --parameters are two sizes: give one")
    for name, needed in {"days": ("gpu", "gpus"), "usd": ("gpu", "usd_per_gpu_hour"), "gpus": ("gpu",),
                         "mfu": ("gpu",), "usd_per_gpu_hour": ("gpu",)}.items():  # fmt: skip
        missing = [_option(other) for other in needed if reader.options[other] is None]
        if reader.given(name) and missing:
            reader.problem(name, f"needs {' and '.join(missing)}")
    if not budgets and not reader.given("model", "parameters", "tokens"):
        reader.problem(None, "nothing to work out: give a budget (--compute, --days or --usd), a size (--model or "
                       "--parameters), --tokens, or two of the three")  # fmt: skip


def _size(reader: _Reader) -> Size | None:
    parameters = reader.number("parameters")
    if parameters is not None:
        return Size("", parameters, parameters)
    if reader.options["model"] is None:
        return None
    from sim.adapters.lookup import Library

    model = reader.found("model", Library().model)
    if model is None:
        return None
    tables = model.embedding_parameters * (1 if model.tied_embeddings else 2)
    tables += model.context * model.hidden if model.learned_positions else 0
    active = float(model.active_parameters)
    return Size(model.id, active, active - tables, bool(model.experts))


def _hardware(reader: _Reader) -> tuple[Hardware | None, dict[str, Any] | None]:
    """What trains, and the same for the document."""
    mfu, gpus, price = (reader.number(name) for name in ("mfu", "gpus", "usd_per_gpu_hour"))
    if reader.options["gpu"] is None:
        return None, None
    from sim.adapters.lookup import Library
    from sim.laws.roofline import peak_16
    from sim.laws.scaling import Hardware

    gpu = reader.found("gpu", Library().gpu)
    if gpu is None:
        return None, None
    hardware = Hardware(peak_16(gpu), mfu or MFU, gpus, price)
    return hardware, {
        "gpu": gpu.id, "gpus": gpus, "peak_flop_per_s": hardware.peak, "mfu": hardware.mfu, "mfu_assumed": mfu is None,
        "usd_per_gpu_hour": price,
    }  # fmt: skip


def _budget(reader: _Reader, hardware: Hardware | None) -> float | None:
    """FLOP, or None where none was given or something is wrong."""
    compute, days, usd = (reader.number(name) for name in ("compute", "days", "usd"))
    if compute is not None or hardware is None or reader.problems:
        return compute
    if days is not None:
        return hardware.compute_in(days)
    return None if usd is None else hardware.compute_for(usd)


# -- what is answered ---------------------------------------------------------------------------------------


def _answer(question: Question) -> dict[str, Any]:
    """The document: what ``--json`` prints, all numbers in SI and None where a law has no answer."""
    from sim.laws.scaling import LAWS, training_compute, training_state

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
    from sim.laws.scaling import distance

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
            warnings.append(f"under-trained by the rule of 20: {_figure(ratio)} tokens a parameter")
        elif run["training"] == "over-trained":
            warnings.append(f"over-trained by the rule of 20: {_figure(ratio)} tokens a parameter; less training "
                            "reaches this loss with a larger model, which costs more to serve")  # fmt: skip
        share = run["share_of_budget"]
        if share is not None and share > 1 + 1e-9:
            warnings.append(f"the run takes {_figure(share)} times the budget")
    beyond = []
    for name, law in document["laws"].items():
        factors = {letter: law["beyond_fit"][key] for letter, key in (("N", "parameters"), ("D", "tokens"))}
        if parts := [f"{letter} {_factor(factor)}" for letter, factor in factors.items() if factor]:
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


# -- text ---------------------------------------------------------------------------------------------------


def _text(document: dict[str, Any]) -> str:
    """The document in the layout of a terminal."""
    budget, run, hardware = document["budget"], document["run"], document["hardware"]
    lines = []
    if budget is not None:
        lines += _line("budget", f"{_compute(budget['compute_flop'])}{_given(budget)}")
    if hardware is not None:
        lines += _line("hardware", _hardware_words(hardware))
    if budget is not None and hardware is not None:
        lines += _line("takes", _spent_words(budget))
    if run is not None:
        lines += _run_lines(run, budget is not None)
    table = _run_table(document["laws"]) if run is not None else _optimum_table(document)
    lines += ["", *_aligned(table), ""]
    for label, texts in (("warning", document["warnings"]), ("note", document["notes"])):
        for text in texts:
            lines += _line(label, text)
    return "\n".join(lines)


def _given(budget: dict[str, Any]) -> str:
    """What the budget was given as."""
    from sim.units import format_usd

    if budget["given_as"] == "days":
        return f": {budget['days']:g} days"
    return f": {format_usd(budget['usd'])}" if budget["given_as"] == "usd" else ""


def _hardware_words(hardware: dict[str, Any]) -> str:
    from sim.units import format_flops, format_usd

    count = f"{hardware['gpus']:,.0f} x " if hardware["gpus"] else ""
    price = f", {format_usd(hardware['usd_per_gpu_hour'])} a GPU-hour" if hardware["usd_per_gpu_hour"] else ""
    assumed = " (assumed)" if hardware["mfu_assumed"] else ""
    peak = format_flops(hardware["peak_flop_per_s"])
    return f"{count}{hardware['gpu']} ({peak}) at MFU {hardware['mfu']:g}{assumed}{price}"


def _run_lines(run: dict[str, Any], budgeted: bool) -> list[str]:
    from sim.units import format_percent

    without = ""
    if run["parameters_without_embeddings"] != run["parameters"]:
        without = f" ({_count(run['parameters_without_embeddings'])} without embeddings)"
    name = f"{run['model']}: " if run["model"] else ""
    own = not budgeted or abs(run["share_of_budget"] - 1) > 1e-9  # else the budget's line has said it
    share = f", {format_percent(run['share_of_budget'])} of the budget" if budgeted and own else ""
    lines = _line("model", f"{name}{_count(run['parameters'])} parameters{without}, {_count(run['tokens'])} tokens")
    if own:
        lines += _line("compute", f"{_compute(run['compute_flop'])}{share}")
        lines += _line("takes", _spent_words(run)) if run["gpu_hours"] is not None else []
    return lines + _line("training", f"{_figure(run['tokens_per_parameter'])} tokens a parameter: {run['training']}")


def _run_table(laws: dict[str, Any]) -> list[list[str]]:
    """The run against each law's optimum of the same compute."""
    rows = [["law", "loss", "best loss", "excess", "compute saved", "best N", "best D", "N / best", "D / best"]]
    for name, law in laws.items():
        run, best = law["run"], law["optimum"]
        related = run["loss_excess"] is not None
        rows.append([
            name, _loss(run["loss"]), _loss(best["loss"] if related else None), _loss(run["loss_excess"]),
            f"{run['compute_saved']:.1%}" if related else "-", _count(best["parameters"]), _count(best["tokens"]),
            _figure(run["parameters_over_optimum"]), _figure(run["tokens_over_optimum"]),
        ])  # fmt: skip
    return rows


def _optimum_table(document: dict[str, Any]) -> list[list[str]]:
    """Each law's optimum; with its compute and what that takes where they differ from law to law."""
    from sim.units import format_seconds, format_usd

    budgeted = document["budget"] is not None
    rows = [["law", "parameters", "tokens", "tokens/param", "loss"]]
    rows[0] += ["N ~ C^", "D ~ C^", "10 x compute"] if budgeted else ["FLOP"]
    optima = [law["optimum"] for law in document["laws"].values()]
    timed, priced = (not budgeted and optima[0][key] is not None for key in ("days", "usd"))
    rows[0] += ["time"] * timed + ["bill"] * priced
    for name, law in document["laws"].items():
        best, powers, ten = law["optimum"], law["exponents"], law["ten_times_compute"]
        row = [name, _count(best["parameters"]), _count(best["tokens"]), _figure(best["tokens_per_parameter"])]
        row += [_loss(best["loss"])]
        if budgeted:
            row += [f"{powers[key]:.3f}" for key in ("parameters", "tokens")]
            row += [f"N x{ten['parameters']:.2f} D x{ten['tokens']:.2f}"]
        else:
            row += [f"{best['compute_flop']:.3g}"]
        row += [format_seconds(best["days"] * 86_400)] if timed else []
        rows.append(row + ([format_usd(best["usd"])] if priced else []))
    return rows


def _spent_words(spent: dict[str, Any]) -> str:
    from sim.units import format_seconds, format_usd

    words = [f"{_count(spent['gpu_hours'])} GPU-hours"]
    words += [format_seconds(spent["days"] * 86_400)] if spent["days"] is not None else []
    words += [format_usd(spent["usd"])] if spent["usd"] is not None else []
    return ", ".join(words)


def _compute(flop: float) -> str:
    from sim.laws.scaling import PF_DAY

    return f"{flop:.3g} FLOP ({_count(flop / PF_DAY)} PF-days)"


def _count(value: float) -> str:
    from sim.units import format_count

    return format_count(value) if 0.01 <= value < 1e15 else f"{value:.3g}"


def _figure(value: float) -> str:
    """Three significant figures."""
    if value >= 1e6 or value < 1e-3:
        return f"{value:.2e}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _factor(value: float) -> str:
    """A factor beyond the largest of a range, or below its smallest."""
    return f"{_figure(value)}x" if value > 1 else f"{_figure(1 / value)}x below the smallest"


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _line(label: str, text: str) -> list[str]:
    """A labelled line, wrapped."""
    wrapped = textwrap.wrap(text, WIDTH - LABEL)
    return [label.ljust(LABEL) + wrapped[0], *(" " * LABEL + more for more in wrapped[1:])]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, figures to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


# -- fitting ------------------------------------------------------------------------------------------------

#: Column of the table -> its symbol.
FITTED = {"parameters": "N", "tokens": "D", "compute": "C"}


def _fit(options: dict[str, str | None]) -> dict[str, Any]:
    """A power law through the points of a file, and what it predicts where a large model is asked for."""
    from sim.laws.scaling import fit_power_law

    reader = _Reader(options)
    file = str(options["fit"])
    column, xs, losses = _points(reader, file)
    at = {"parameters": ("parameters", "model"), "tokens": ("tokens",), "compute": ("compute",)}.get(column, ())
    others = {name for name, value in options.items() if value is not None} - {"fit", "law", *at}
    if column and others:
        allowed = f"--fit of {column} predicts at {' or '.join(map(_option, at))}"
        reader.problem(None, f"{allowed}: it does not take {', '.join(map(_option, sorted(others)))}")
    x = reader.number(column) if column else None
    if column == "parameters" and (size := _size(reader)) is not None:
        x = size.without_embeddings
    reader.finish()
    try:
        found = fit_power_law(xs, losses)
    except ValueError as error:
        raise InputError([Problem(file, None, None, None, str(error))]) from None
    predicted = None
    if x is not None:
        predicted = {column: x, "loss": found.loss(x), "beyond_fit": found.fitted.beyond(x)}
    return {
        "fit": {"column": column, "points": found.points, "scale": found.scale, "exponent": found.exponent,
                "worst_error": found.worst, "smallest": found.fitted.low, "largest": found.fitted.high},
        "predicted": predicted,
    }  # fmt: skip


def _points(reader: _Reader, file: str) -> tuple[str, list[float], list[float]]:
    """The column that varies, its values and the losses; problems by line of the file."""
    import csv

    from sim.units import Dimension, UnitError, parse

    try:
        with Path(file).open(encoding="utf-8", newline="") as stream:
            table = list(csv.reader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a CSV file in UTF-8"
        reader.problems.append(Problem(file, None, None, None, str(reason or error)))
        return "", [], []
    head = [cell.strip().lower() for cell in table[0]] if table else []
    columns = [name for name in FITTED if name in head]
    if len(columns) != 1 or "loss" not in head:
        message = f"needs a column loss and one of {', '.join(FITTED)}; it has {', '.join(head) or 'none'}"
        reader.problems.append(Problem(file, 1, None, None, message))
        return "", [], []
    losses_as = Dimension("Loss", "a loss", "nats", "2.31", {"": _dimensions()["tokens"].units[""]}, 1e3, bare=True)
    dimensions = {columns[0]: _dimensions()[columns[0]], "loss": losses_as}
    values: dict[str, list[float]] = {name: [] for name in dimensions}
    for number, row in enumerate(table[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        for name, dimension in dimensions.items():
            try:
                value = parse(row[head.index(name)] if head.index(name) < len(row) else "", dimension)
                if value == 0.0:
                    raise UnitError("must be above zero")
                values[name].append(value)
            except UnitError as error:
                reader.problems.append(Problem(file, number, None, name, str(error)))
    if not reader.problems and not values["loss"]:
        reader.problems.append(Problem(file, None, None, None, "has no points"))
    return columns[0], values[columns[0]], values["loss"]


def _fit_text(document: dict[str, Any]) -> str:
    fit, predicted = document["fit"], document["predicted"]
    column, symbol = fit["column"], FITTED[fit["column"]]
    span = f"{_count(fit['smallest'])} to {_count(fit['largest'])}"
    lines = _line("points", f"{fit['points']} of {column} from {span}")
    lines += _line("law", f"L({symbol}) = ({fit['scale']:.4g} / {symbol})^{fit['exponent']:.4f}; the worst point is "
                   f"{fit['worst_error']:.2%} off")  # fmt: skip
    if predicted is not None:
        beyond = predicted["beyond_fit"]
        where = f", extrapolated {_factor(beyond)}" if beyond else ""
        lines += _line("predicts", f"loss {_loss(predicted['loss'])} at {_count(predicted[column])} {column}{where}")
    return "\n".join(lines + _line("note", "one power law with no irreducible loss; it holds for the data, tokenizer "
                                   "and recipe of its points"))  # fmt: skip
