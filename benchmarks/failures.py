"""How long a run among failures takes to simulate.

    python benchmarks/failures.py [--lives 200]

Three lines: 54 days of Llama 3 405B on 16,384 H100 (its step once, then as many lives as asked for, mean and standard
deviation of progress); 4,096 servers for 256 days at 0.01 failures a server and day, 20 minutes of recovery, 200
spares and a day of repair, the size that airesim (arXiv:2603.07041) takes 10.2 s for; Daly's expectation against
10,000 failures. Numbers belong to the machine they are taken on.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

from sim.adapters.resolve import resolve_file
from sim.jobs.reliability.effects import Effect, Terms, always
from sim.jobs.reliability.faults import Units, failures
from sim.jobs.reliability.life import live
from sim.jobs.reliability.progress import Saving
from sim.jobs.reliability.replicas import prepare, replica
from sim.laws.checkpointing import efficiency

DAY = 86_400.0
SCENARIO = Path(__file__).parents[1] / "scenarios" / "llama3_405b_54_days.yaml"


def llama(lives: int) -> None:
    """54 days as published."""
    begun = time.process_time()
    prepared = prepare(resolve_file(SCENARIO, ()))
    ready = time.process_time()
    found = [replica(prepared, seed) for seed in range(lives)]
    each = (time.process_time() - ready) / lives
    share, struck = [life.ettr for life in found], [sum(life.failures.values()) for life in found]
    print(
        f"54 days of 16,384 H100: {ready - begun:.3f} s to prepare, {1e3 * each:.1f} ms a life; progress "
        f"{statistics.mean(share):.4f} +- {statistics.stdev(share):.4f}, {statistics.mean(struck):.1f} failures"
    )


def servers() -> None:
    """The size of airesim's defaults."""
    units = [Units("server", 4096, DAY / 0.01)]
    effects = {"server": Effect("stop", (("restart", always(1200.0)),), nodes=1)}
    terms = Terms(Saving(1800.0), effects, horizon=256 * DAY, spares=200.0, repair=always(DAY), nodes=4096)
    seeds = np.random.SeedSequence(0).spawn(2)
    begun = time.process_time()
    life, events = live(terms, failures(units, seeds[0]), np.random.default_rng(seeds[1]))
    spent = time.process_time() - begun
    print(
        f"4,096 servers for 256 days: {spent:.3f} s ({10.2 / spent:.0f} times as fast as 10.2 s), {events:,} events, "
        f"{life.stops:,} stops"
    )


def daly() -> None:
    """10,000 failures against the closed form, R/M as 0.05."""
    mtbf, recovery, save, interval = 1e4, 500.0, 20.0, 600.0
    terms = Terms(
        Saving(interval, save), {"gpu": Effect("stop", (("restart", always(recovery)),))}, horizon=1e4 * mtbf
    )  # fmt: skip
    seeds = np.random.SeedSequence(1).spawn(2)
    life, _ = live(terms, failures([Units("gpu", 1, mtbf)], seeds[0]), np.random.default_rng(seeds[1]))
    expected = efficiency(interval, save, recovery, mtbf)
    print(f"Daly: {expected:.4f} expected, {life.ettr:.4f} simulated ({life.ettr / expected - 1:+.2%})")


def main() -> None:
    """Print the three lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lives", type=int, default=200)
    llama(parser.parse_args().lives)
    servers()
    daly()


if __name__ == "__main__":
    main()
