"""Recompute the named length distributions of the catalogue from the public request traces.

    python benchmarks/fit_lengths.py ../shared/data/traces sim/catalog/lengths

Azure's 2023 traces are CC-BY, Mooncake's Apache-2.0. The tables hold the quantiles 0, 0.1, ..., 100% of prompt
and output lengths, Spearman's rank correlation between the two, and the rate and variation of arrivals.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from sim.adapters.traces import RequestTrace, read_trace

# A quantile a tenth of a percent: the longest hundredth of prompts is a long way from the rest.
POINTS = 1001

TRACES = {
    "azure-2023-conversation": ("azure_llm_2023_conv.csv", "Azure LLM inference trace 2023, conversation (CC-BY 4.0)"),
    "azure-2023-code": ("azure_llm_2023_code.csv", "Azure LLM inference trace 2023, code (CC-BY 4.0)"),
    "mooncake-conversation": ("mooncake_conversation.jsonl", "Mooncake conversation trace 2025 (Apache-2.0)"),
}


def ranks(values: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean ranks, ties shared."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    upto = np.cumsum(counts)
    return ((upto - counts + upto + 1) / 2)[inverse]


def table(trace: RequestTrace, source: str) -> dict[str, object]:
    """The catalogue entry of a trace."""
    shares = np.linspace(0, 1, POINTS)
    gaps = np.diff(trace.arrival)
    return {
        "prompt": {"values": [round(float(x)) for x in np.quantile(trace.prompt, shares)]},
        "output": {"values": [round(float(x)) for x in np.quantile(trace.output, shares)]},
        "spearman": round(float(np.corrcoef(ranks(trace.prompt), ranks(trace.output))[0, 1]), 4),
        "arrivals_per_s": f"{1 / gaps.mean():.4g} req/s",
        "arrivals_cv": round(float(gaps.std() / gaps.mean()), 3),
        "requests": len(trace.prompt),
        "source": f"{source}, {len(trace.prompt):,} requests; quantiles computed by benchmarks/fit_lengths.py",
    }


def main() -> None:
    """Write one file a distribution."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(exist_ok=True)
    for name, (file, source) in TRACES.items():
        entry = table(read_trace(args.traces / file), source)
        text = yaml.safe_dump(entry, sort_keys=False, width=118, default_flow_style=None)
        (args.out / f"{name}.yaml").write_text(text)
        print(name, {k: entry[k] for k in ("spearman", "arrivals_per_s", "arrivals_cv", "requests")})


if __name__ == "__main__":
    main()
