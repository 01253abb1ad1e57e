"""The documentation against the code: links, commands, paths and YAML that readers copy, and complete references.

Code blocks say what they are: ``sh`` blocks are commands; a ``yaml`` block is followed by ``scenario`` (a whole one),
``topology`` (a whole one), ``top`` or ``job`` (keys laid over the flagship scenario or its job), ``training`` (keys
laid over the job of the first scenario in the guide to training), or ``failures`` and ``failing job`` (over the first
scenario in the guide to failures, or its job).
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import click
import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sim import errors
from sim.adapters.lookup import Library
from sim.adapters.resolve import resolve_file
from sim.adapters.validation import validate
from sim.adapters.yaml_source import load_yaml
from sim.catalog import KINDS
from sim.cli import VERBS, cli
from sim.laws.arrange import layouts, topology_of
from sim.laws.topology import build_topology
from sim.results import schema
from sim.results.assumptions import NOT_MODELLED, TRAINING_NOT_MODELLED
from sim.results.definitions import LEDGER, METRICS, TRAINING_METRICS
from sim.results.extras import ADAPTERS_NOT_MODELLED, SPECULATIVE_NOT_MODELLED
from sim.results.tables import COLUMNS
from sim.spec import (
    economics,
    extras,
    hardware,
    plan,
    reliability,
    scenario,
    sizing,
    stack,
    topology,
    training,
    training_stack,
    transformer,
    workload,
)
from sim.study import compare_schema, failures_schema, size_schema, sweep_schema
from sim.units import Dimension, parse

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md"]
FLAGSHIP = "scenarios/4090_pp_home.yaml"
FAULTS = "time,class,unit\n3 h,gpu,17\n2.5 days,switch,0\n"
TRACE = "arrived_at,num_prefill_tokens,num_decode_tokens\n0,10,10\n1,20,20\n"
WIDEST = 120  # pages are wrapped at 110

by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


class Block(NamedTuple):
    """A fenced code block: what follows the fence, its text, and the line it starts at."""

    info: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The fenced code blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(m[1].strip(), m[2], text[: m.start()].count("\n") + 1) for m in found]


def prose(page: Path) -> str:
    """A page without its fenced code blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every ``sim`` command in ``sh`` blocks and in inline code (there with arguments only)."""
    lines = [line for block in blocks(page) if block.info == "sh" for line in block.text.splitlines()]
    inline = [code for code in re.findall(r"`(sim [^`\n]+)`", prose(page)) if len(code.split()) > 2]
    for line in (part.strip() for text in (*lines, *inline) for part in text.split("&&")):
        if line.startswith("sim "):
            yield shlex.split(line)[1:]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the documented commands find their files."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("scenarios", "topologies"):
        shutil.copytree(ROOT / name, folder / name)
    for name in ("my_trace.csv", "my_requests.csv", "scenarios/my_trace.csv"):
        (folder / name).write_text(TRACE)
    for name in ("my_faults.csv", "scenarios/my_faults.csv"):
        (folder / name).write_text(FAULTS)
    for block in (block for page in PAGES for block in blocks(page) if block.info == "yaml scenario"):
        name = yaml.safe_load(block.text)["name"]
        (folder / f"{name}.yaml").write_text(block.text)
    return folder


# -- what readers click and copy ----------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@by_name
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


def test_the_index_names_every_page() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        assert page.name == "index.md" or f"({page.name})" in index, page.name


@by_name
def test_paths_of_scenarios_and_topologies_exist(page: Path) -> None:
    for path in re.findall(r"\b(?:scenarios|topologies)/[\w.+-]+\.yaml", page.read_text(encoding="utf-8")):
        assert (ROOT / path).is_file(), f"{page.name} names {path}"


@by_name
def test_commands_parse(page: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options and arguments by click; scenarios with their ``--set`` by looking everything up."""
    monkeypatch.chdir(workspace)
    for args in commands(page):
        if args[0].startswith("-"):
            known = {option for parameter in cli.params for option in parameter.opts}
            assert args[0] in known | {"-h", "--help"}, args
            continue
        verb = cli.get_command(click.Context(cli), args[0])
        assert verb is not None, f"{page.name}: there is no sim {args[0]}"
        context = verb.make_context(args[0], args[1:])
        for path in context.params.get("scenarios", [context.params.get("scenario")]):
            if path is not None and path.is_file():
                resolve_file(path, context.params["overrides"], context.params["seed"])


@by_name
def test_yaml_blocks_are_valid(page: Path, workspace: Path) -> None:
    for number, block in enumerate(blocks(page)):
        if block.info.split()[:1] != ["yaml"]:
            continue
        kind = block.info.partition(" ")[2]
        file = workspace / "scenarios" / f"{page.stem}_{number}.yaml"
        file.write_text(block.text if kind in ("scenario", "topology") else laid_over(block.text, kind))
        if kind == "topology":
            spec = validate(topology.TopologySpec, load_yaml(file))
            library = Library()
            built = build_topology(spec, gpu=library.gpu, link=library.link)
            built.route(0, len(built.gpus) - 1)
            continue
        resolved = resolve_file(file)
        if kind == "scenario":
            layouts(resolved, topology_of(resolved))


def laid_over(text: str, kind: str) -> str:
    """The flagship, or the first scenario of a guide, with the keys of ``text`` at the top or in its job."""
    guides = {"training": "guide-training.md", "failures": "guide-failures.md", "failing job": "guide-failures.md"}
    assert kind in ("top", "job", "serving job", *guides), f"a yaml block must say what it is, not '{kind}'"
    shipped = ROOT / "scenarios" / "home_8x4090_drop_out.yaml" if kind == "serving job" else ROOT / FLAGSHIP
    base = yaml.safe_load(shipped.read_text(encoding="utf-8"))
    if kind in guides:
        guide = blocks(DOCS / guides[kind])
        base = yaml.safe_load(next(block.text for block in guide if block.info == "yaml scenario"))
    (base if kind in ("top", "failures") else base["jobs"][0]).update(yaml.safe_load(text))
    if "trace" in base.get("faults", {}) and "checkpoint" in base["jobs"][0]:
        base["jobs"][0]["checkpoint"]["every"] = "1 h"  # the guide says that auto is refused with a trace
    return yaml.safe_dump(base)


@by_name
def test_python_blocks_import_what_exists(page: Path) -> None:
    for block in (block for block in blocks(page) if block.info == "python"):
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, alias.name) for alias in node.names), page.name


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_lines_are_wrapped(page: Path) -> None:
    for line in prose(page).splitlines():
        assert len(line) <= WIDEST or line.startswith("|"), f"{page.name}: {line}"


# -- complete references ------------------------------------------------------------------------------------


def sections(page: str) -> dict[str, str]:
    """Heading -> text until the next heading."""
    parts = re.split(r"^#+ +(.*)$", prose(DOCS / page), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def keys(text: str) -> list[str]:
    """The first column of a section's table."""
    return [row[0].strip("`") for row in rows(text)]


def reachable(roots: Sequence[type[BaseModel]]) -> list[type[BaseModel]]:
    """The models that these hold, however deep."""
    found: list[type[BaseModel]] = []

    def visit(annotation: Any) -> None:
        if inspect.isclass(annotation) and issubclass(annotation, BaseModel) and annotation not in found:
            found.append(annotation)
            for field in annotation.model_fields.values():
                visit(field.annotation)
        for argument in get_args(annotation):
            visit(argument)

    for root in roots:
        visit(root)
    return found


INPUTS: dict[str, dict[str, type[BaseModel]]] = {
    "reference-scenario.md": {
        "Scenario": scenario.Scenario,
        "cluster": scenario.ClusterSpec,
        "cluster.network": scenario.NetworkOverride,
        "jobs": scenario.ServingJob,
        "jobs.precision": plan.ServingPrecision,
        "jobs.plan": plan.ServingPlan,
        "jobs.batching": scenario.Batching,
        "jobs.speculative": extras.Speculative,
        "jobs.adapters": extras.Adapters,
        "jobs.load": workload.Load,
        "jobs.load.closed_loop": workload.ClosedLoop,
        "jobs.load.poisson": workload.Poisson,
        "jobs.load.gamma": workload.GammaBurst,
        "jobs.load.deterministic": workload.Deterministic,
        "jobs.load.diurnal": workload.Diurnal,
        "jobs.load.trace": workload.Trace,
        "jobs.load.prefix": workload.SharedPrefix,
        "jobs.load.conversation": workload.Conversation,
        "jobs.load.tenants": workload.Tenant,
        "jobs.batching.kv_offload": scenario.KvOffload,
        "jobs.disaggregate": scenario.Disaggregation,
        "jobs.autoscale": scenario.Autoscale,
        "Length models": workload.LengthModel,
        "lognormal": workload.Lognormal,
        "exponential": workload.Exponential,
        "empirical": workload.Empirical,
        "jobs.objectives": workload.Objectives,
        "jobs (training)": training.TrainingJob,
        "jobs.precision (training)": training.TrainingPrecision,
        "jobs.plan (training)": training.TrainingPlan,
        "jobs.plan.schedule": training.UserSchedule,
        "jobs.plan.recompute.every": training.RecomputeEvery,
        "jobs.plan.recompute.group": training.RecomputeGroup,
        "jobs.plan.offload": training.Offload,
        "jobs.plan.parameter_server": training.ParameterServer,
        "jobs.batch": training.TrainingBatch,
        "jobs.finetune": training.Finetune,
        "jobs.slow": training.SlowGpu,
        "jobs.checkpoint": reliability.Checkpoint,
        "jobs.checkpoint.to": reliability.Storage,
        "jobs.recovery": reliability.Recovery,
        "Times that vary": reliability.Spread,
        "jobs.run": training.TrainingLength,
        "cost": economics.CostSpec,
        "cost.capital": economics.CapitalItem,
        "cost.capital.unit_price": economics.Between,
        "cost.electricity": economics.EnergyBetween,
        "cost.hosting": economics.Hosting,
        "cost.power": economics.Power,
        "cost.rental": economics.Rental,
        "cost.rental.per_gpu": economics.HourlyBetween,
        "cost.income": economics.Income,
        "cost.income.per_gpu": economics.HourlyBetween,
        "cost.demand": economics.Demand,
        "faults": reliability.Faults,
        "faults.classes": reliability.FaultClass,
        "faults.lemons": reliability.Lemons,
        "faults.trace": reliability.RecordedFault,
        "assume": scenario.Assume,
        "assume.gpu": scenario.AssumedGpu,
        "define": scenario.Define,
        "sweep": scenario.SweepSpec,
        "sweep.random": scenario.SweepRandom,
        "sweep.random.axes": scenario.SweepRange,
        "size": sizing.SizeSpec,
    },
    "reference-topology.md": {
        "Topology": topology.TopologySpec,
        "host_power": topology.HostPower,
        "nodes": topology.NodeSpec,
        "nodes.gpus": topology.GpuGroup,
        "nodes.pcie": topology.PcieSpec,
        "nodes.host_memory": topology.HostMemory,
        "nodes.nvme": topology.NvmeSpec,
        "nodes.staging": topology.Staging,
        "nodes.nvlink": topology.NvlinkSpec,
        "nodes.nics": topology.NicSpec,
        "network": topology.NetworkSpec,
        "network.switches": topology.SwitchSpec,
        "network.uplinks": topology.UplinkSpec,
        "network.leaf_spine": topology.LeafSpine,
        "vertices": topology.VertexSpec,
        "edges": topology.EdgeSpec,
    },
    "reference-catalogue.md": {
        "gpu": hardware.Gpu,
        "gpu.flops": hardware.Flops,
        "gpu.power": hardware.GpuPower,
        "gpu.kernels": hardware.KernelConstants,
        "link": hardware.LinkType,
        "fabric": hardware.Fabric,
        "model": transformer.Transformer,
        "stack": stack.Stack,
        "stack.memory": stack.StackMemory,
        "stack.gpus": stack.StackOnGpu,
        "training-stack": training_stack.TrainingStack,
        "training-stack.constants": training_stack.TrainingConstants,
        "lengths": workload.LengthDistribution,
        "failure": reliability.FaultPreset,
        "price": economics.Price,
        "machine": sizing.Machine,
        "machine.capital": sizing.Piece,
        "network": sizing.Network,
    },
}
CATALOGUE: list[type[BaseModel]] = [
    hardware.Gpu, hardware.LinkType, hardware.Fabric, transformer.Transformer, stack.Stack,
    training_stack.TrainingStack, workload.LengthDistribution, reliability.FaultPreset, economics.Price,
    sizing.Machine, sizing.Network,
]  # fmt: skip

RESULTS: dict[str, type[BaseModel]] = {
    "Result": schema.Result,
    "verdict": schema.Verdict,
    "verdict.effects": schema.Effect,
    "jobs": schema.JobResult,
    "jobs.metrics": schema.ServingMetrics,
    "jobs.metrics (training)": schema.TrainingMetrics,
    "jobs.metrics.checkpoint_levels": schema.CheckpointLevel,
    "spread": schema.Spread,
    "jobs.cost": schema.Cost,
    "jobs.cost.payback_curve": schema.PaybackPoint,
    "jobs.cost.saturation": schema.Saturation,
    "jobs.cost.curve": schema.UsePoint,
    "jobs.cost.swing": schema.Swing,
    "jobs.cost.swing.plans": schema.SwingPlan,
    "jobs.tenants": schema.TenantResult,
    "jobs.incidents": schema.Incident,
    "jobs.expected_error": schema.ExpectedError,
    "jobs.capacity": schema.Capacity,
    "jobs.capacity.tried": schema.Tried,
    "jobs.window": schema.Window,
    "memory": schema.MemoryStage,
    "devices": schema.DeviceClass,
    "links": schema.LinkClass,
    "timeline": schema.Timeline,
    "timeline.spans": schema.Span,
    "roofline": schema.RooflineDot,
    "assumptions": schema.Assumption,
}
COMPARISONS: dict[str, type[BaseModel]] = {
    "comparison": compare_schema.Comparison,
    "comparison.scenarios": compare_schema.ScenarioPart,
    "comparison.scenarios.curve": compare_schema.CurvePoint,
    "comparison.settings": compare_schema.Setting,
    "comparison.pairs": compare_schema.Pair,
    "comparison.cheapest": compare_schema.Cheapest,
    "comparison.against": compare_schema.Against,
    "comparison.by_demand": compare_schema.ByDemand,
}


STUDIES: dict[str, type[BaseModel]] = {
    "sweep": sweep_schema.SweepStudy,
    "sweep.points": sweep_schema.SweepPoint,
    "size": size_schema.Sizing,
    "size.answers": size_schema.Answer,
    "size.nearest": size_schema.Miss,
    "failures": failures_schema.FailureStudy,
    "failures.points": failures_schema.PointResult,
}


def test_every_model_has_its_section() -> None:
    described = {model for page in INPUTS.values() for model in page.values()}
    assert described == set(reachable([scenario.Scenario, *CATALOGUE]))
    assert set(RESULTS.values()) == set(reachable([schema.Result]))


@pytest.mark.parametrize(("page", "heading"), [(page, heading) for page in INPUTS for heading in INPUTS[page]])
def test_every_key_a_user_may_write_is_described(page: str, heading: str) -> None:
    model = INPUTS[page][heading]
    table = {row[0].strip("`"): row for row in rows(sections(page)[heading])}
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    assert list(table) == list(fields)
    for name, field in fields.items():
        cell = table[name][2]
        assert stands_for(cell, field), f"{heading}.{name}: the page says the default is {cell}"


def stands_for(cell: str, field: FieldInfo) -> bool:
    """Whether a table's cell is the field's default."""
    default = field.get_default(call_default_factory=True)
    if field.is_required() or cell == "required":
        return field.is_required() and cell == "required"
    if cell in ("–", "its defaults"):
        return bool(default in (None, "", (), {}) if cell == "–" else default == type(default)())
    dimension = next(dimensions_of(field), None)
    if dimension is not None and isinstance(default, float):
        return parse(cell, dimension) == pytest.approx(default)
    read = yaml.safe_load(cell)
    return bool((tuple(read) if isinstance(read, list) else read) == default)


def test_units_are_read_as_shown() -> None:
    used = {
        item
        for model in reachable([scenario.Scenario, *CATALOGUE])
        for field in model.model_fields.values()
        for item in dimensions_of(field)
    }
    shown = {}
    for _, example, others in rows(sections("reference-scenario.md")["Units"]):
        shown[example.strip("`")] = re.findall(r"`([^`]+)`", others.partition(" (")[0])
    assert set(shown) == {dimension.example for dimension in used}
    for dimension in used:
        for text in (dimension.example, *shown[dimension.example]):
            parse(text, dimension)


def dimensions_of(field: FieldInfo) -> Iterator[Dimension]:
    """The units in which a field may be written."""
    waiting: list[Any] = [*field.metadata, field.annotation]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Dimension):
            yield item
        waiting += [*get_args(item), *getattr(item, "__metadata__", ())]


@pytest.mark.parametrize(("heading", "model"), [*RESULTS.items(), *COMPARISONS.items(), *STUDIES.items()])
def test_every_key_of_a_document_is_described(heading: str, model: type[BaseModel]) -> None:
    assert keys(sections("reference-result.md")[heading]) == list(model.model_fields)


def test_every_column_of_the_request_table_is_named() -> None:
    named = re.findall(r"`(\w+)`", sections("reference-result.md")["requests.csv"])
    assert tuple(named[: len(COLUMNS)]) == COLUMNS


def test_every_metric_and_bucket_is_defined() -> None:
    found = sections("reference-metrics.md")
    metrics = keys(found["Per job"]) + keys(found["Money"])
    assert sorted(metrics) == sorted(METRICS)
    assert set(keys(found["Per job"])) == set(schema.ServingMetrics.model_fields)
    trained = keys(found["Per training job"])
    assert sorted(trained + keys(found["Money"])) == sorted(TRAINING_METRICS)
    assert set(trained) == set(schema.TrainingMetrics.model_fields)
    assert keys(found["The ledger"]) == list(LEDGER)


def test_every_verb_option_and_exit_code_is_described() -> None:
    found = sections("reference-cli.md")
    for name in VERBS:
        verb = cli.get_command(click.Context(cli), name)
        assert verb is not None
        for parameter in verb.params:
            option = max(parameter.opts, key=len)
            word = option if isinstance(parameter, click.Option) else option.upper()
            assert word in found[f"sim {name}"], f"sim {name}: {word}"
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.SimError)]
    assert {row[0] for row in rows(found["Exit codes"])} == {"0", *(str(kind.exit_code) for kind in kinds)}


def test_every_verb_and_every_kind_of_the_catalogue_is_listed() -> None:
    text = (DOCS / "reference-cli.md").read_text(encoding="utf-8")
    listed = [row[0] for row in rows(text.partition("## Exit codes")[0])]
    assert sorted(listed) == sorted(f"[`sim {name}`](#sim-{name})" for name in VERBS)
    told = sections("reference-cli.md")["sim catalog"]
    assert all(re.search(rf"\b{kind}\b", told) for kind in KINDS)


def test_what_reports_call_not_modelled_is_explained() -> None:
    page = " ".join((DOCS / "not-modelled.md").read_text(encoding="utf-8").replace("\n> ", " ").split())
    for line in (*NOT_MODELLED, *TRAINING_NOT_MODELLED, *SPECULATIVE_NOT_MODELLED, *ADAPTERS_NOT_MODELLED):
        assert line in page
