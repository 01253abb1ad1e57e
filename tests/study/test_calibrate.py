"""Constants put into rows come out again; nothing is fitted to rows that may not be; rows left out are not seen."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.adapters.lookup import Library
from sim.errors import InputError
from sim.spec.hardware import KernelConstants
from sim.study.calibrate.fit import Constant, Task, best
from sim.study.calibrate.kernels import calibrate_kernels
from sim.study.calibrate.schema import Calibration
from sim.study.calibrate.select import calibrated, dealt
from sim.study.calibrate.servings import Player, runs_of, with_constants
from sim.study.calibrate.stacks import calibrate_stack
from sim.study.validate.formats import read_files
from sim.study.validate.kernel_laws import Attention, Copy, Exchange, Product

LIBRARY = Library()
COLUMNS = ("id", "source", "engine", "version", "mode", "model", "weights", "kv_dtype", "gpu", "n_gpus", "n_nodes",
           "tp", "pp", "batch", "isl", "osl", "metric", "value", "unit", "quality")  # fmt: skip
ROW = {"source": "bench", "engine": "TensorRT-LLM", "version": "1.0", "mode": "static_batch", "model": "LLaMA v3.1 8B",
       "weights": "fp16", "kv_dtype": "fp16", "gpu": "H100 SXM 80GB", "n_gpus": 1, "n_nodes": 1, "tp": 1, "pp": 1,
       "batch": 8, "isl": 512, "osl": 32, "metric": "throughput", "value": 1000, "unit": "tok/s"}  # fmt: skip
PAIR = ("h100-sxm", "trtllm")
TRUE = {"compute_scale": 0.8, "memory_scale": 0.9, "attention_scale": 0.6, "host_per_step": 3e-3}


def shapes() -> list[dict[str, Any]]:
    """Runs of three models on one GPU: a prompt alone, small and large batches, short and long contexts."""
    found, batches = [], ((1, 128), (32, 128), (96, 1024))
    for model in ("LLaMA v3.1 8B", "Llama 2 7B", "Llama 2 13B"):
        found.append(ROW | {"model": model, "metric": "ttft", "unit": "ms", "batch": 1, "isl": 2048, "osl": 1})
        found += [ROW | {"model": model, "batch": batch, "isl": isl} for batch, isl in batches]
    return [row | {"id": f"r-{i}"} for i, row in enumerate(found)]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())
    return path


def measured_with(path: Path, rows: list[dict[str, Any]], values: Mapping[str, float], pair: Any = PAIR) -> Path:
    """The rows as a stack with these constants would have been measured, for itself."""
    gpu, name = pair
    tables = read_files([written(path, rows)])
    runs = runs_of([case for _, cases in tables for case in cases], gpu, name)
    assert len(runs) == len(rows)
    stack = with_constants(LIBRARY.stack(name), gpu, values)
    told = Player(runs, stack, gpu).predictions(stack)
    scale = {"ms": 1e3, "tok/s": 1.0}
    return written(path, [row | {"value": repr(value * scale[row["unit"]])}
                          for row, value in zip(rows, told, strict=True)])  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measured_with(tmp_path_factory.mktemp("calibrate") / "table.csv", shapes(), TRUE)


@pytest.fixture(scope="module")
def recovered(table: Path) -> Calibration:
    return calibrate_stack(read_files([table]), *PAIR, "own", 3)


def test_constants_put_into_rows_come_out_again(recovered: Calibration) -> None:
    found = {constant.name: constant for constant in recovered.parts[0].constants}
    assert {name for name, constant in found.items() if constant.fitted} == set(TRUE)
    for name, value in TRUE.items():
        assert found[name].value == pytest.approx(value, rel=0.01)
    own = LIBRARY.stack("trtllm")
    assert found["launch_scale"].value == own.launch_scale
    assert found["host_per_sequence"].value == own.host_per_sequence


def test_rows_left_out_are_told_by_constants_of_the_others(recovered: Calibration) -> None:
    (part,) = recovered.parts
    assert part.held_out == "model and precision"
    assert (part.rows, part.groups, part.folds) == (12, 3, 3)
    assert part.fitted.p90_abs_error < 0.002
    assert part.cross_validated.p90_abs_error < 0.05 < part.bare.median_abs_error


def test_one_model_measured_wrong_is_not_told_by_itself(table: Path, tmp_path: Path) -> None:
    """Rows of a model that was half as fast as it was do not teach the fold that they are tested in."""
    with table.open() as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    wrong = {row["id"] for row in rows if row["model"] == "Llama 2 13B"}
    for row in rows:
        if row["id"] in wrong:
            row["value"] = float(row["value"]) * (2 if row["unit"] == "ms" else 0.5)
    found = calibrate_stack(read_files([written(tmp_path / "wrong.csv", rows)]), *PAIR, "own", 3)
    for row in found.rows:
        assert row.cross_validated is not None
        assert row.id not in wrong or abs(np.log(row.cross_validated / row.measured)) > 0.5


def test_only_whole_rows_of_one_gpu_are_fitted_to(tmp_path: Path) -> None:
    """Rows that may not be fitted to change nothing, however wrong they are, and are told with their reasons."""
    path = measured_with(tmp_path / "good.csv", shapes()[1:5], {"host_per_step": 5e-3})
    alone = calibrate_stack(read_files([path]), *PAIR, "own", 2)
    with path.open() as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    absurd = [
        rows[1] | {"id": "tp", "tp": 2, "n_gpus": 2, "value": 1},
        rows[1] | {"id": "pp", "pp": 2, "n_gpus": 2, "value": 1},
        rows[1] | {"id": "nodes", "pp": 2, "n_gpus": 2, "n_nodes": 2, "value": 1},
        rows[1] | {"id": "copies", "n_gpus": 8, "value": 1},
        rows[1] | {"id": "assumed", "quality": "B", "value": 1},
        rows[1] | {"id": "queue", "mode": "closed_loop", "metric": "ttft_p99", "unit": "ms", "value": 1},
        rows[1] | {"id": "cliff", "mode": "offline_max", "model": "LLaMA v3.1 70B", "weights": "fp8", "value": 1,
                   "isl": 128, "osl": 16},
    ]  # fmt: skip
    both = calibrate_stack(read_files([written(path, rows + absurd)]), *PAIR, "own", 2)
    assert both.parts == alone.parts
    reasons = {row.id: row.reason for row in both.rows if row.reason is not None}
    assert set(reasons) == {row["id"] for row in absurd}
    assert reasons["tp"] == reasons["copies"] == "several GPUs of one machine"
    assert reasons["pp"] == "pipeline stages"
    assert reasons["nodes"] == "several machines"
    assert "KV cache" in (reasons["cliff"] or "")
    assert {tested.reason for tested in both.tested} == set(reasons.values())
    assert all(tested.fitted.n for tested in both.tested)


def test_the_same_table_gives_the_same_document(table: Path, recovered: Calibration) -> None:
    again = calibrate_stack(read_files([table]), *PAIR, "own", 3)
    assert again.model_dump_json() == recovered.model_dump_json()


@pytest.mark.parametrize(
    ("gpu", "stack", "complaint"),
    [
        ("h100-sxm", "trtllm", r"2 rows of 2 scenarios of h100-sxm / trtllm may be fitted to; at least 4 rows of 3 sc"),
        ("h200-sxm", "trtllm", r"no row of the tables is a serving of h200-sxm / trtllm; .*did you mean 'h100-sxm /"),
        ("h100-sxm", "ideal", "'ideal' is the datasheet's arithmetic: it has no constants to fit"),
        ("h100-sxm", "nemo-2025", "'nemo-2025' trains"),
        ("h100-sxm", "trtlm", "unknown stack 'trtlm', did you mean 'trtllm'"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_one_line(tmp_path: Path, gpu: str, stack: str, complaint: str) -> None:
    path = written(tmp_path / "few.csv", shapes()[:2])
    with pytest.raises(InputError, match=complaint) as caught:
        calibrate_stack(read_files([path]), gpu, stack, "own", 5)
    assert len(str(caught.value).splitlines()) == 1


# -- kernels ------------------------------------------------------------------------------------------------


KERNELS = {"gemm_compute_16": 0.7, "gemm_memory": 0.6, "gemm_launch": 9e-6, "gemm_compute_8": 0.5,
           "quantise_launch": 6e-6, "elementwise_memory": 0.7, "elementwise_launch": 4e-6, "decode_memory": 0.5,
           "decode_launch": 30e-6, "prefill_compute": 0.3, "prefill_launch": 30e-6, "prefill_memory": 0.2}  # fmt: skip


def kernel_tables(folder: Path, told: Callable[[Any], float]) -> list[Path]:
    """Tables in the documented formats whose times ``told`` gives, in seconds."""
    products = [("bfloat16", "bf16", False), ("fp8", "fp8", True)]
    gemm = ["gpu,dtype,m,n,k,latency_us"]
    for dtype, weights, quantised in products:
        gemm += [
            f"h100_sxm,{dtype},{m},{n},{k},{1e6 * told(Product('h100-sxm', weights, m, n, k, quantised)):.6f}"
            for n, k in ((4096, 4096), (14336, 4096), (4096, 14336), (8192, 8192)) for m in (1, 64, 512, 8192)
        ]  # fmt: skip
    batches = ((32, 2048), (8, 8192), (64, 8192), (256, 4096))
    attention = ["gpu,op,batch_size,s,num_heads,kv,latency_us"]
    attention += [
        f"h100_sxm,{op},{b},{s},{h},8,{1e6 * told(Attention('h100-sxm', op == 'prefill', h, 8, b, s)):.6f}"
        for op in ("prefill", "decode") for h in (8, 32, 64) for b, s in batches
    ]  # fmt: skip
    copies = ["gpu,copied_bytes,latency_us"]
    copies += [f"h100-sxm,{1 << n},{1e6 * told(Copy('h100-sxm', 1 << n)):.6f}" for n in range(12, 30, 2)]
    reduced = ["gpu,n_gpus,bytes,time_ns_in_place"]
    reduced += [f"h100,{n},{1 << s},{1e9 * told(Exchange('h100-sxm', n, 1 << s)):.3f}"
                for n in (2, 4, 8) for s in range(10, 31, 2)]  # fmt: skip
    tables = {"gemm": gemm, "attention": attention, "copies": copies, "all_reduce": reduced}
    for name, lines in tables.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return [folder / f"{name}.csv" for name in tables]


def test_a_gpus_constants_come_out_of_tables_of_its_kernels(tmp_path: Path) -> None:
    own = LIBRARY.gpu("h100-sxm").kernels
    assert own is not None
    true: KernelConstants = own.model_copy(update=KERNELS)
    changed = {"alpha": 11e-6, "bulk_efficiency": {2: 0.5, 4: 0.5, 8: 0.6}}
    fabric = Exchange("h100-sxm", 8, 1024).fabric().model_copy(update=changed)

    def told(kernel: Any) -> float:
        seconds: float = kernel.seconds(fabric if isinstance(kernel, Exchange) else true)
        return seconds

    found = calibrate_kernels(read_files(kernel_tables(tmp_path, told)), "h100-sxm", None, 3)
    values = {c.name: c.value for part in found.parts for c in part.constants}
    for name, value in KERNELS.items():
        assert values[name] == pytest.approx(value, rel=0.02), name
    assert values["alpha"] == pytest.approx(11e-6, rel=0.02)
    assert values["bulk_efficiency.4"] == pytest.approx(0.5, rel=0.02)
    assert all(part.cross_validated.p90_abs_error < 0.02 for part in found.parts)
    written_kernels = found.entry["define"]["gpus"]["h100-sxm"]["kernels"]
    assert written_kernels["gemm_launch"] == "9 us"
    assert written_kernels["origin"] == "measured"


def test_kernels_of_another_gpu_are_named(tmp_path: Path) -> None:
    (tmp_path / "gemm.csv").write_text("gpu,m,n,k,latency_us\nh100_sxm,1,4096,4096,20\n")
    tables = read_files([tmp_path / "gemm.csv"])
    with pytest.raises(InputError, match="no row of the tables is a kernel of h100-pcie; at least 6 are needed"):
        calibrate_kernels(tables, "h100-pcie", None, 3)
    with pytest.raises(InputError, match="1 kernels of h100-sxm are too few: 6 rows of 3 shapes"):
        calibrate_kernels(tables, "h100-sxm", None, 3)


# -- fitting ------------------------------------------------------------------------------------------------


def line_task(measured: list[float], high: float = 10.0) -> Task:
    """T = work / rate + start: the rate is to be found, the start is known to be a time."""
    work = np.arange(1.0, len(measured) + 1)

    def seconds(values: Any, rows: Any) -> Any:
        return work[list(rows)] / values[0] + values[1]

    constants = (Constant("rate", 1.0, 0.01, high), Constant("start", 0.0, 0.0, 100.0, slows=True))
    return Task(constants, np.array(measured), seconds)


def test_a_fit_is_exact_where_the_law_is() -> None:
    task = line_task([n / 2.5 + 3.0 for n in range(1, 9)])
    assert task.values(best(task, range(8), (0, 1))) == pytest.approx((2.5, 3.0), rel=1e-4)


def test_a_row_far_off_does_not_decide() -> None:
    times = [n / 2.5 for n in range(1, 10)]
    task = line_task([*times[:-1], 50 * times[-1]])
    assert task.values(best(task, range(9), (0,)))[0] == pytest.approx(2.5, rel=0.05)


def test_a_constant_that_helps_no_row_left_out_stays() -> None:
    found = calibrated(line_task([n / 2.5 for n in range(1, 9)]), range(8), 4)
    assert found.fitted == (0,)
    assert found.values[1] == 0.0


def test_a_constant_beyond_its_bounds_is_not_taken() -> None:
    found = calibrated(line_task([n / 2.5 for n in range(1, 9)], high=2.0), range(8), 4)
    assert 0 not in found.fitted


def test_folds_keep_groups_whole_and_take_every_row_once() -> None:
    groups = ["a", "a", "b", "c", "c", "c", "d"]
    parts = dealt(groups, 3)
    assert sorted(row for part in parts for row in part) == list(range(7))
    assert len(parts) == 3
    for name in set(groups):
        assert len({i for i, part in enumerate(parts) for row in part if groups[row] == name}) == 1
