"""What the verbs share: options, loading, progress, and writing files whole or not at all."""

from __future__ import annotations

import gc
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sim.adapters.resolve import Resolved
    from sim.study.executors import OpenExecutor

Function = TypeVar("Function", bound=Callable[..., Any])


def scenario_options(function: Function) -> Function:
    """The scenario argument with --set, --seed and --json."""
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else on standard output."),
        click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="Seed of all random streams."),
        click.option("--set", "overrides", metavar="A.B=VALUE", multiple=True,
                     help="Change a value of the scenario, e.g. --set jobs.0.plan.pp=4. May be repeated."),
        click.argument("scenario", type=click.Path(path_type=Path)),
    ):  # fmt: skip
        function = decorate(function)
    return function


def load(scenario: Path, overrides: tuple[str, ...], seed: int | None) -> Resolved:
    """The scenario with every name looked up. Raises InputError."""
    from sim.adapters.resolve import resolve_file

    return resolve_file(scenario, overrides, seed)


def said(verb: str, scenario: Path) -> str:
    """The command that is being run; of a program that calls in, what would do the same."""
    return shlex.join(["sim", *sys.argv[1:]] if len(sys.argv) > 1 else ["sim", verb, str(scenario)])


def settle() -> None:
    """Before what takes long: what is loaded by now stays, and garbage, which start-up lets lie, is collected."""
    gc.freeze()
    gc.enable()


def workers_of(workers: int, preload: tuple[str, ...], executor: str | None = None) -> OpenExecutor:
    """What opens the named executor; without a name, processes where several are asked for."""
    from sim.study.executors import open_executor

    return partial(open_executor, executor or ("processes" if workers > 1 else "serial"), workers, preload)


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, then rename: it is whole or it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def progress() -> Iterator[Callable[[str, float], None]]:
    """A bar on standard error once a run takes over a second; plain lines where that is not a terminal."""
    began, shown, bar, task = time.monotonic(), 0.0, None, None

    def hear(what: str, share: float) -> None:
        nonlocal shown, bar, task
        now = time.monotonic()
        if now - began < 1.0 or now - shown < 0.1:
            return
        if not sys.stderr.isatty():
            if now - shown >= 5.0:
                shown = now
                print(f"{what}: {share:.0%} after {now - began:.0f} s", file=sys.stderr)
            return
        shown = now
        if bar is None:
            from rich.console import Console
            from rich.progress import Progress

            bar = Progress(console=Console(stderr=True), transient=True)
            task = bar.add_task(what, total=1.0)
            bar.start()
        assert task is not None
        bar.update(task, description=what, completed=share)

    try:
        yield hear
    finally:
        if bar is not None:
            bar.stop()
