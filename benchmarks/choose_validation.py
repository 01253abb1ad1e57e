"""Choose the rows that `sim validate` ships, from the project's whole tables (which are not shipped).

    python benchmarks/choose_validation.py ../shared/data/truth sim/catalog/validation

The rule sees no prediction. Of training and serving: of each combination of source, GPU, framework and version, model,
kind of run, plan's kind and precision, the row in the middle of those measured (of an even number the earlier), without
quality C; vTrain's, which are all alike but for layout, by number of GPUs, width and tp. Of kernels and collectives: of
each (GPU, software, kind) those at the 10th, 50th and 90th percentile of measured time, of those that the laws tell.
Rows keep the columns that the mapping reads and what says where they come from.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from sim.study.validate.formats import read_tables

Row = dict[str, str]

TRAINING = (
    "table", "id", "source", "framework", "task", "model", "n_active_b", "hidden", "layers", "heads", "kv_heads", "ffn",
    "mlp_mats", "vocab", "seq_len", "precision", "gpu", "n_gpus", "gpus_per_node", "intra_link", "inter_link", "tp",
    "pp", "vpp", "cp", "ep", "dp", "sharding", "micro_batch", "global_batch", "recompute", "tok_s_gpu", "step_time_s",
    "mem_gb", "quality", "notes",
)  # fmt: skip
VTRAIN = (
    "gpus", "global_batch", "micro_batch", "hidden", "heads", "layers", "seq", "tp", "dp", "pp", "measured_iter_ms",
)  # fmt: skip
SERVING = (
    "id", "source", "locator", "date", "model", "weights", "kv_dtype", "gpu", "n_gpus", "n_nodes", "interconnect", "tp",
    "pp", "engine", "version", "mode", "batch", "isl", "osl", "metric", "value", "unit", "scope", "notes",
)  # fmt: skip
SHARES = (0.1, 0.5, 0.9)


def read(path: Path) -> list[Row]:
    """The rows of a table."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def grouped(rows: Iterable[Row], key: Callable[[Row], tuple[str, ...]]) -> list[list[Row]]:
    """Rows by key, in the order in which keys first come."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.values())


def middle(rows: Iterable[Row], key: Callable[[Row], tuple[str, ...]], value: Callable[[Row], float]) -> list[Row]:
    """The row in the middle of each group."""
    return [sorted(group, key=value)[(len(group) - 1) // 2] for group in grouped(rows, key)]


def spread(rows: Iterable[Row], key: Callable[[Row], tuple[str, ...]], value: Callable[[Row], float]) -> list[Row]:
    """Rows at a few shares of each group, by value."""
    found = []
    for group in grouped(rows, key):
        ordered = sorted(group, key=value)
        found += [ordered[round(share * (len(ordered) - 1))] for share in SHARES]
    return found


def write(path: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> None:
    """A table with these columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
    print(f"{path.name}: {len(rows)}")


def of(*names: str) -> Callable[[Row], tuple[str, ...]]:
    """A key of these columns."""
    return lambda row: tuple(row.get(name, "") for name in names)


def mapped(path: Path) -> set[str]:
    """Ids of rows of a table that are mapped."""
    return {case.id for case in read_tables([path]) if case.reason is None}


def told(path: Path) -> list[Row]:
    """The rows of a table of kernels or collectives that the laws tell."""
    return [row for row, case in zip(read(path), read_tables([path]), strict=True) if case.reason is None]


def training(truth: Path, out: Path) -> None:
    """Training rows and vTrain's."""
    path = truth / "training" / "measured.csv"
    good = mapped(path)
    rows = [row for row in read(path) if row["id"] in good and row["quality"] in ("A", "B")]
    key = of("table", "gpu", "framework", "task", "model", "precision")
    measured = lambda row: float(row["step_time_s"] or row["tok_s_gpu"])  # noqa: E731
    write(out / "training.csv", middle(rows, key, measured), TRAINING)
    for name in ("vtrain_single", "vtrain_multi"):
        rows = read(truth / "training" / f"{name}.csv")
        chosen = middle(rows, of("gpus", "hidden", "tp"), lambda row: float(row["measured_iter_ms"]))
        write(out / f"{name}.csv", chosen, VTRAIN)


def serving(truth: Path, out: Path) -> None:
    """Serving rows."""
    path = truth / "inference" / "measured.csv"
    good = mapped(path)
    rows = [row for row in read(path) if row["id"] in good]
    named = of("source", "gpu", "engine", "version", "model", "mode", "metric")
    key = lambda row: (*named(row), plan(row))  # noqa: E731
    write(out / "serving.csv", middle(rows, key, lambda row: float(row["value"])), SERVING)


def plan(row: Row) -> str:
    """The kind of its plan."""
    return "pp" if row["pp"] not in ("", "1") else "tp" if row["tp"] not in ("", "1") else "one"


def kernels(truth: Path, out: Path) -> None:
    """Kernels and collectives."""
    folder = truth / "kernels"
    latency = lambda row: float(row.get("latency_us") or row.get("latency") or 0)  # noqa: E731
    rows = [row for row in read(folder / "gemm_aic_sample.csv.gz") if row["cold"] == "1"]
    chosen = spread(rows, of("gpu", "framework", "dtype"), latency)
    write(out / "gemm.csv", chosen, ("gpu", "framework", "dtype", "m", "n", "k", "cold", "latency_us"))
    attention = []
    for name, op in (("generation", "decode"), ("context", "prefill")):
        path = folder / f"attention_{name}_aic_sample.csv.gz"
        rows = [row | {"op": op} for row in told(path)]
        attention += spread(rows, of("gpu", "framework"), latency)
    columns = ("gpu", "framework", "op", "batch_size", "s", "num_heads", "kv", "latency_us")
    write(out / "attention.csv", attention, columns)
    rows = spread(read(folder / "nccl_intranode.csv"), of("gpu", "op_name"), latency)
    write(out / "nccl.csv", rows, ("gpu", "nccl", "op_name", "num_gpus", "bytes", "latency"))
    chosen = spread(told(folder / "custom_allreduce.csv"), of("gpu", "src"), latency)
    write(out / "engine_all_reduce.csv", chosen, ("gpu", "src", "num_gpus", "message_size", "latency"))


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    args.out.mkdir(exist_ok=True)
    training(args.truth, args.out)
    serving(args.truth, args.out)
    kernels(args.truth, args.out)


if __name__ == "__main__":
    main()
