"""Requests simulated per wall second on one core, events per request, start-up and peak memory.

    python benchmarks/serving_requests.py                      # 10,000 and 100,000 requests on h100_tp8
    python benchmarks/serving_requests.py --trace ../shared/data/traces/azure_llm_2023_conv.csv
    python benchmarks/serving_requests.py --prefix-caching --requests 12000 \
        --trace ../shared/data/traces/mooncake_conversation.jsonl

Each size runs in a process of its own, so peak memory is its own. Without ``--trace`` the requests are drawn
from the catalogue's azure-2023-conversation lengths at the trace's rate. Times are those of this machine at this
moment: compare ratios from one run, not seconds from two.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

SCENARIO = Path(__file__).parent.parent / "scenarios" / "h100_tp8.yaml"


def measure(scenario: Path, requests: int, trace: Path | None, caching: bool) -> dict[str, float]:
    """One run in this process: start-up, simulation and results, in seconds; events; MB."""
    began = time.perf_counter()
    from sim.adapters.resolve import resolve_file
    from sim.run import run_recorded

    load = f"{{poisson: {{rate: 5.53 req/s}}, lengths: azure-2023-conversation, requests: {requests}}}"
    overrides = [f"jobs.0.load={load}"]
    if trace is not None:
        overrides = [f"jobs.0.load={{trace: {{file: {trace.resolve()}, limit: {requests}, too_long: truncate}}}}"]
    if caching:
        overrides += ["model=llama-3.1-70b", "jobs.0.batching.prefix_caching=true"]
        if trace is None:
            shared = "prefix: {tokens: 1000, variants: 50, skew: 1}, conversation: {turns: 4, think_time: 20 s}"
            overrides[0] = overrides[0].replace("requests:", f"{shared}, requests:").replace("5.53", "1.4")
    resolved = resolve_file(scenario, overrides)
    if trace is not None and len(resolved.jobs[0].trace.arrival) < requests:  # type: ignore[union-attr]
        from dataclasses import replace

        job = resolved.jobs[0]
        resolved = replace(resolved, jobs=(replace(job, trace=job.trace.cycled(requests)),))  # type: ignore[union-attr]
    started = time.perf_counter()
    outcome = run_recorded(resolved, effects=False)
    done = time.perf_counter()
    return {
        "requests": requests,
        "start_up_s": started - began,
        "simulation_s": outcome.wall_s,
        "results_s": done - started - outcome.wall_s,
        "requests_per_s": requests / outcome.wall_s,
        "with_results_per_s": requests / (done - started),
        "events_per_request": outcome.result.events / requests,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Print a row a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", type=Path, default=SCENARIO)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--requests", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--prefix-caching", action="store_true", help="prompts in common, kept in the KV cache")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.scenario, args.requests[0], args.trace, args.prefix_caching)))
        return
    names = ["requests", "start_up_s", "simulation_s", "results_s", "requests_per_s", "with_results_per_s",
             "events_per_request", "peak_mb"]  # fmt: skip
    print("  ".join(f"{name:>18}" for name in names))
    for requests in args.requests:
        for _ in range(args.repeat):
            command = [sys.executable, __file__, "--one", "--requests", str(requests), "--scenario", str(args.scenario)]
            command += ["--trace", str(args.trace)] if args.trace else []
            command += ["--prefix-caching"] if args.prefix_caching else []
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print("  ".join(f"{found[name]:18,.2f}" for name in names))


if __name__ == "__main__":
    main()
