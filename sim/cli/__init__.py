"""The command line: one module a verb, imported when it is called.

Standard output is the answer, standard error is progress and complaints. Exit codes: 0 done, 1 the run
failed, 2 bad input, 3 the configuration cannot exist, 4 a stated objective was missed (``--fail-on``).
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from typing import Any

import click

from sim import __version__
from sim.errors import SimError

VERBS = {
    "run": "Simulate a scenario, print the verdict and write its report.",
    "check": "Say whether a scenario fits, without simulating: memory, routes, plan, assumptions.",
    "sweep": "Simulate a scenario at many values: Pareto front, what each axis moves, resumable.",
    "compare": "Put scenarios side by side: what differs, which is cheaper for which load, break-even.",
    "size": "Find the cheapest hardware and layout for a load, or the best for a budget.",
    "failures": "Live a training job through failures: goodput by size, MTBF, checkpoints and policy.",
    "validate": "Predict measured runs - shipped or your own - and say how far off each is.",
    "calibrate": "Fit constants to measured tables, or measure this machine's GPU, into a catalogue entry.",
    "explain": "Derive one number of a run: formula, inputs, sources.",
    "show": "Draw the report of a result.json again.",
    "scaling": "Parameters, tokens and loss for a budget, by Kaplan, Chinchilla and 20x.",
    "catalog": "List what is known - GPUs, links, models, stacks, prices, lengths - with sources.",
    "schema": "Print the JSON Schema of scenarios or topologies, for editors.",
    "init": "Write a starter scenario, or copy out a shipped one.",
}


class Verbs(click.Group):
    """A group that imports a verb's module only when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        return importlib.import_module(f"sim.cli.{name}").command  # type: ignore[no-any-return]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from sim.errors import did_you_mean

            close = did_you_mean(args[0], VERBS) if args else None
            hint = f", did you mean '{close}'?" if close else f"; there are {', '.join(VERBS)}"
            raise click.UsageError(f"no such command '{args[0]}'{hint}", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sim")
def cli() -> None:
    """Simulate GPU clusters for LLM training and inference: how fast, what binds, what it costs, how far to trust it.

    Start with: sim init --list, or sim run scenarios/4090_pp_home.yaml
    """


def main(argv: list[str] | None = None) -> None:
    """Entry point: every failure is a clear line and an exit code, never a traceback (unless SIM_DEBUG is set)."""
    # Start-up makes thousands of objects and no garbage; verbs that run for long turn the collector on again.
    gc.disable()
    try:
        code = cli.main(args=argv, prog_name="sim", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except SimError as error:
        _complain(str(error), error.exit_code)
    except click.ClickException as error:
        error.show(sys.stderr)
        sys.exit(2)
    except click.Abort:
        _complain("interrupted", 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (RecursionError, MemoryError) as error:
        _complain(f"the input is too large to handle ({type(error).__name__})", 1)
    except OSError as error:
        _complain(f"{error.filename or 'file'}: {error.strerror or error}", 1)
    except Exception as error:
        if os.environ.get("SIM_DEBUG"):
            raise
        _complain(f"internal error: {type(error).__name__}: {error} (set SIM_DEBUG=1 for the traceback)", 1)


def _complain(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    sys.exit(code)
