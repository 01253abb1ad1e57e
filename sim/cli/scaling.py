"""``sim scaling``: how many parameters and tokens for a budget, and how far a model is from that.

The options make a question (here), the question a document (:mod:`sim.study.scaling`, what ``--json`` prints), and the
document the text (:mod:`sim.report.scaling_text`).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from sim.errors import InputError, Problem
from sim.laws.scaling import LAWS, PF_DAY, Hardware
from sim.study.scaling import MFU, Question, Size, answer, fit
from sim.units import FRACTION, USD, USD_PER_HOUR, Dimension, UnitError, parse

LEAST, MOST = 1e12, 1e36
"""FLOP: a budget outside them is a slip of the pen."""
#: Column of a table of small models -> the options that say at what a large one is predicted.
FITTED = {"parameters": ("parameters", "model"), "tokens": ("tokens",), "compute": ("compute",)}


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
@click.option("--law", type=click.Choice([*LAWS, "all"]), default="all", show_default=True, help="Which law.")
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
    from sim.report.scaling_text import render_fit, render_scaling
    from sim.report.screen import screen

    if options["fit"] is not None:
        document, show = _fit(options), render_fit
    else:
        document, show = answer(_question(options)), render_scaling
    click.echo(json.dumps(document, indent=1) if as_json else show(document, screen()))


# -- what is asked ------------------------------------------------------------------------------------------


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
    laws = tuple(LAWS) if options["law"] in (None, "all") else (str(options["law"]),)
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


# -- fitting ------------------------------------------------------------------------------------------------


def _fit(options: dict[str, str | None]) -> dict[str, Any]:
    """A power law through the points of a file, and what it predicts where a large model is asked for."""
    reader = _Reader(options)
    file = str(options["fit"])
    column, xs, losses = _points(reader, file)
    at = FITTED.get(column, ())
    others = {name for name, value in options.items() if value is not None} - {"fit", "law", *at}
    if column and others:
        allowed = f"--fit of {column} predicts at {' or '.join(map(_option, at))}"
        reader.problem(None, f"{allowed}: it does not take {', '.join(map(_option, sorted(others)))}")
    x = reader.number(column) if column else None
    if column == "parameters" and (size := _size(reader)) is not None:
        x = size.without_embeddings
    reader.finish()
    try:
        return fit(column, xs, losses, x)
    except ValueError as error:
        raise InputError([Problem(file, None, None, None, str(error))]) from None


def _points(reader: _Reader, file: str) -> tuple[str, list[float], list[float]]:
    """The column that varies, its values and the losses; problems by line of the file."""
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
