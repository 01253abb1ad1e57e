"""gpu-cluster-sim: a discrete-event simulator of GPU clusters for LLM training and inference.

A user describes a cluster, models and jobs in YAML; SimPy processes play it; the answer is one Result:
throughput, latency, utilisation, what binds, what it costs per token, and how far to trust it.
"""

__version__ = "0.1.0"
