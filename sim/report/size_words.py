"""A size in words: the sentences and tables that page and terminal share."""

from __future__ import annotations

from typing import Final

from sim.report.answer_words import error_texts
from sim.report.figures.common import sentence
from sim.report.values import NONE, write
from sim.study.capacity import told
from sim.study.size_schema import TOP, Answer, Sizing
from sim.study.size_schema import worth as told_worth
from sim.units import format_usd

METHOD: Final = (
    "Designs that do not fit, or that their laws show to miss an objective, are left out before anything is simulated; "
    "the others are simulated best bound first, until no bound is better than what was found. What comes first is "
    "confirmed by longer runs of several seeds: the answers are those that doing so with every design would give."
)


def worth(s: Sizing, value: float) -> str:
    """A value of the goal with its unit."""
    return told_worth(s.goal, s.serves, value)


def design(a: Answer) -> str:
    """An answer's hardware and layout."""
    where = f"{a.nodes} x {a.machine}" + (f" on {a.network}" if a.network else "")
    return f"{where}, {a.plan}"


def settings(s: Sizing, a: Answer) -> str:
    """Keys that an answer chose besides the degrees, of those that are not the same in all answers."""
    chosen = {k: v for k, v in a.settings.items() if any(other.settings.get(k) != v for other in s.answers)}
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in chosen.items())


def _common(s: Sizing) -> str:
    """Keys that all answers chose alike."""
    first = s.answers[0].settings
    alike = {k: v for k, v in first.items() if all(a.settings.get(k) == v for a in s.answers)}
    return ", ".join(f"{key} {value}" for key, value in alike.items())


def sentences(s: Sizing) -> list[str]:
    """The answer, what comes after it, what the scenario's own cluster does, and how far the search went."""
    best = s.answers[0]
    chosen = f" ({said})" if (said := settings(s, best)) else ""
    found = [f"{design(best)}{chosen}: {worth(s, best.value)}{_performance(s, best)}."]
    if s.capacity is not None:
        found.append(sentence(f"{told(s.capacity)}."))
    others = [row for row in s.best_by_machine if row.answer not in (None, 0)]
    if others and others[0].answer is not None:
        other = s.answers[others[0].answer]
        found.append(f"The next kind of machine: {design(other)}, {_against(s, other.value)}.")
    elif len(s.best_by_machine) > 1:
        found.append("No other kind of machine does what is asked.")
    if s.own is not None:
        own = "The scenario's own cluster"
        if s.own.value is None:
            found.append(f"{own} does not do it: {s.own.why}.")
        else:
            found.append(f"{own}: {_against(s, s.own.value)}{f' {s.own.why}' if s.own.why else ''}.")
    return found


def nothing(s: Sizing) -> str:
    """Why no design does what is asked, and what came nearest."""
    if not s.coverage.designs:
        return "there is no design to look at: no layout of the model divides the GPUs of these machines"
    lines = [f"none of {s.coverage.designs:,} designs does what is asked: {s.question}"]
    if s.nearest is not None:
        near = s.nearest
        times = f", {near.over:.3g} times what is asked" if near.over is not None else ""
        bought = f"{format_usd(near.capital_usd)} and " if near.capital_usd is not None else ""
        price = f"it costs {bought}{format_usd(near.usd_per_hour)}/h or more"
        lines.append(f"the nearest, {near.why}: {near.design}: {near.reason}{times}; {price}")
    lines += [f"{loss.designs:,} {loss.why}, for example {loss.example}" for loss in s.losses]
    return "\n".join(lines)


def confirmed(s: Sizing) -> str:
    """How the winner is confirmed; empty where it trains."""
    best = s.answers[0]
    if not best.confirmed or not best.requests:
        return ""
    runs = f"each of {len(best.seeds)} runs" if len(best.seeds) > 1 else "a run"
    return f"The winner does what is asked in {runs} of {best.requests:,} requests (seeds {_seeds(best)})."


def _seeds(a: Answer) -> str:
    return f"{a.seeds[0]} to {a.seeds[-1]}" if len(a.seeds) > 1 else "all alike"


def expected(s: Sizing) -> list[str]:
    """What is known of the errors of the winner's numbers, in the words of ``sim run``."""
    return error_texts(s.serves, s.expected_error, s.expected_ttft_error, s.expected_tpot_error)


def _performance(s: Sizing, a: Answer) -> str:
    m = a.metrics
    if not s.serves:
        days, mfu = m.get("days_to_target"), m.get("mfu")
        return f", {days:.3g} days at {write('mfu', mfu)} MFU" if days is not None and mfu is not None else ""
    parts = [
        write("output_tokens_per_s", m.get("output_tokens_per_s")),
        f"TTFT p99 {write('ttft_s', m.get('ttft_s.p99'))}", f"TPOT p99 {write('tpot_s', m.get('tpot_s.p99'))}",
    ]  # fmt: skip
    if s.goal != "cost":
        parts.append(f"{format_usd(a.usd_per_hour)}/h")
    if a.usd_per_million_tokens is not None:
        parts.append(f"{format_usd(a.usd_per_million_tokens)}/Mtok")
    return ", " + ", ".join(parts)


def _against(s: Sizing, value: float) -> str:
    """A value, and how many times the winner's it is."""
    best = s.answers[0].value
    ratio = f" ({value / best:.3g} times that)" if best else ""
    return f"{worth(s, value)}{ratio}"


def coverage_line(s: Sizing) -> str:
    """How much of the space was looked at."""
    c = s.coverage
    parts = [
        f"{c.do_not_fit:,} do not fit", f"{c.ruled_out_by_laws:,} are ruled out by laws",
        f"{c.simulated:,} were simulated ({c.runs:,} runs)", f"{c.cannot_be_better:,} cannot be better",
    ]  # fmt: skip
    return f"All {c.designs:,} designs are covered: {', '.join(parts)}."


def answer_columns(s: Sizing) -> list[str]:
    """Headings of the table of answers."""
    if not s.serves:
        return ["", "hardware", "plan", *_settings_column(s), s.measure, "days", "MFU", "USD/h", "capital", "prices of"]
    first = [s.measure] if s.measure != "USD/h" else []
    return ["", "hardware", "plan", *_settings_column(s), *first, "USD/h", "capital", "USD/Mtok", "tok/s", "TTFT p99",
            "TPOT p99", "prices of"]  # fmt: skip


def _settings_column(s: Sizing) -> list[str]:
    return ["settings"] if any(settings(s, a) for a in s.answers) else []


def answer_row(s: Sizing, number: int) -> list[str]:
    """One answer as cells."""
    a = s.answers[number]
    m = a.metrics
    where = f"{a.nodes} x {a.machine}" + (f" on {a.network}" if a.network else "")
    first = [str(number + 1), where, a.plan, *([settings(s, a)] if _settings_column(s) else [])]
    money = [write("usd_per_hour", a.usd_per_hour), write("capital_usd", a.capital_usd)]
    if not s.serves:
        value = worth(s, a.value).removesuffix(" to finish")
        days = m.get("days_to_target")
        return [*first, value, NONE if days is None else f"{days:.3g}", write("mfu", m.get("mfu")), *money,
                a.prices_as_of or NONE]  # fmt: skip
    value_cell = [worth(s, a.value)] if s.measure != "USD/h" else []
    return [
        *first, *value_cell, *money, write("usd_per_million_tokens", a.usd_per_million_tokens),
        write("output_tokens_per_s", m.get("output_tokens_per_s")), write("ttft_s", m.get("ttft_s.p99")),
        write("tpot_s", m.get("tpot_s.p99")), a.prices_as_of or NONE,
    ]  # fmt: skip


def machine_rows(s: Sizing) -> list[list[str]]:
    """The best of each kind of machine, and why the others have none."""
    rows = []
    for row in s.best_by_machine:
        if row.answer is None:
            rows.append([row.machine, "no", row.why])
        else:
            a = s.answers[row.answer]
            chosen = settings(s, a)
            rows.append([row.machine, worth(s, a.value), f"{design(a)} ({chosen})" if chosen else design(a)])
    return rows


def loss_rows(s: Sizing) -> list[list[str]]:
    """Why the losers lost."""
    return [[f"{loss.designs:,}", loss.why, loss.example] for loss in s.losses]


def note_lines(s: Sizing) -> list[str]:
    """What a buyer should know of the answers that are told."""
    told_of = [s.answers[i] for i in range(min(TOP, len(s.answers)))]
    lines = [f"of the winner: {note}" for note in s.notes]
    lines += [line for line in (confirmed(s), *(s.capacity.caveats if s.capacity is not None else ())) if line]
    lines += [note for a in told_of for note in a.notes]
    if alike := _common(s):
        lines.append(f"all of these with {alike}")
    dates = {date for a in told_of for date in a.prices_as_of.split(", ")}
    if len(dates) > 1:
        lines.append(f"prices are of different times: {'; '.join(sorted(dates))}")
    return list(dict.fromkeys(lines))
