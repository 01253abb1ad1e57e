"""Points per second of a sweep: the flagship at 200 requests, 1,000 points, two processes.

    python benchmarks/sweep_points.py [--points 1000] [-j 2]

Every point is another simulation (network bandwidth x network latency x clients); the price line repeats them over
prices of electricity, which share their story. Time is from the command's start to the last byte written. The first
line is what a point takes of one core, in CPU time of this process: it hangs less on what else the machine does.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path

from sim.jobs.play import play
from sim.spec.scenario import SweepSpec
from sim.study.executors import open_executor
from sim.study.sweep import prepare, run_sweep
from sim.study.sweep_axes import from_options
from sim.study.sweep_points import answer_chunk, edition
from sim.study.sweep_store import Journal
from sim.study.sweep_tables import csv_text, document_text

FLAGSHIP = Path(__file__).parents[1] / "scenarios" / "4090_pp_home.yaml"
SHORT = ["jobs.0.load.requests=200"]


def axes(points: int) -> SweepSpec:
    """About ``points`` different simulations around the flagship's own values."""
    side = round(points ** (1 / 3))
    bandwidths = ",".join(f"{1 + 24 * i / side:.3g} Gbps" for i in range(side))
    latencies = ",".join(f"{5 + 10 * i} us" for i in range(side))
    clients = ",".join(str(135 - 5 * i) for i in range(side))
    return from_options([
        f"cluster.network.bandwidth={bandwidths}", f"cluster.network.latency={latencies}",
        f"jobs.0.load.closed_loop.clients={clients}",
    ])  # fmt: skip


def alone(points: int) -> None:
    """Print the CPU time of a point in this process: the least of three rounds over a few points."""
    began = time.process_time()
    study = prepare(FLAGSHIP, SHORT, vary=axes(points))
    read = (time.process_time() - began) / len(study.tasks)
    # Every other of the points has other clients too.
    chosen = [[tasks[0].resolved] for tasks in study.tasks[:: max(1, len(study.tasks) // 16) | 1]]
    rounds = {"answered": lambda: answer_chunk(edition(), chosen), "with charts": lambda: [play(r) for (r,) in chosen]}
    took = {}
    for name, call in rounds.items():
        times = []
        for _ in range(3):
            began = time.process_time()
            call()
            times.append((time.process_time() - began) / len(chosen))
        took[name] = min(times)
    answered, drawn = took["answered"], took["with charts"]
    print(f"a point: {1e3 * read:.1f} ms to read, {1e3 * answered:.1f} ms to play and price ({1e3 * drawn:.1f} ms to "
          f"play it with charts), so {1 / (read + answered):.1f} points a second and core")  # fmt: skip


def timed(name: str, spec: SweepSpec, workers: int) -> None:
    """Run a sweep in an empty folder and print its pace."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        study = prepare(FLAGSHIP, SHORT, vary=spec)
        read = time.perf_counter() - began
        opened = partial(open_executor, "processes", workers, ("sim.study.sweep_points",))
        with Journal(Path(folder) / "points.jsonl") as journal:
            sweep = run_sweep(study, journal, opened)
        (Path(folder) / "points.csv").write_text(csv_text(sweep))
        (Path(folder) / "sweep.json").write_text(document_text(sweep))
    took = time.perf_counter() - began
    count = len(sweep.outcomes)
    print(f"{name}: {count} points in {took:.1f} s, {count / took:.1f} a second "
          f"({read:.1f} s of it reading them; load average {os.getloadavg()[0]:.1f})")  # fmt: skip


def main() -> None:
    """Print three lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("-j", type=int, default=2)
    args = parser.parse_args()
    alone(args.points)
    timed("simulations", axes(args.points), args.j)
    prices = ",".join(f"{0.05 + 0.001 * i:.3f} USD/kWh" for i in range(args.points // 4))
    timed("prices", from_options([f"cost.electricity={prices}", "jobs.0.load.closed_loop.clients=8,32,64,128"]), args.j)


if __name__ == "__main__":
    main()
