"""``sim init``: a starter scenario, a copy of a shipped one with its topology, one of the machine at hand, or one of an
engine's arguments."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.cli.schema import schema_of
from sim.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    from sim.adapters.lookup import Library
    from sim.adapters.resolve import Resolved

STARTER = "4090_pp_home"


@click.command("init")
@click.argument("name", required=False)
@click.option("--list", "listing", is_flag=True, help="List the shipped scenarios and topologies.")
@click.option("--from-topo", "described", metavar="FILE",
              help="Describe a machine instead: FILE is what nvidia-smi topo -m prints, or NCCL's topology XML; - "
              "reads standard input. NAME is then the name of the new files.")
@click.option("--gpu", "gpus", metavar="GPU", multiple=True,
              help="With --from-topo: the GPU in the catalogue, where FILE does not tell; repeated: one for each.")
@click.option("--nic", metavar="LINK", help="With --from-topo: the catalogue link of its network cards.")
@click.option("--from-vllm", "served", metavar="COMMAND",
              help="Write a scenario of vLLM's arguments instead: a command (vllm serve MODEL --...), or a file with "
              "it or with arguments (script, YAML, JSON, docker compose). NAME is then the name of the scenario.")
@click.option("--topology", metavar="TOPOLOGY",
              help="With --from-vllm: the cluster it runs on, a topology file or the name of a shipped one.")
@click.option("--to", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path(),
              help="Folder to write into (default: here); scenarios/, topologies/ and docs/ are made in it.")
@click.option("--force", is_flag=True, help="Overwrite files that are already there.")  # fmt: skip
def command(
    name: str | None, listing: bool, described: str | None, gpus: tuple[str, ...], nic: str | None,
    served: str | None, topology: str | None, folder: Path, force: bool,
) -> None:  # fmt: skip
    """Copy out the shipped scenario NAME (default: 4090_pp_home), its topology, and their schemas for editors; or,
    with --from-topo, write the topology of a machine and a scenario to start from; or, with --from-vllm, a scenario of
    how vLLM serves a model."""
    if served is not None and (described is not None or listing):
        raise _refusal(f"--from-vllm writes a scenario: leave {'--list' if listing else '--from-topo'} out")
    if topology is not None and served is None:
        raise _refusal("--topology is where --from-vllm runs, which is not given")
    if described is None:
        for option, value in (("--gpu", gpus), ("--nic", nic)):
            if value:
                raise _refusal(f"{option} describes the machine of --from-topo, which is not given")
    if listing:
        if described is not None:
            raise _refusal("--list lists what is shipped: leave --from-topo out")
        _list()
        return
    left: list[str] = []
    if served is not None:
        copies, left = _served(served, name, topology, folder)
    elif described is not None:
        copies = _machine(described, name, gpus, nic, folder)
    else:
        copies = _shipped(name or STARTER, folder)
    # Files name their schema for editors: put it where they look.
    copies += [
        (folder / "docs" / f"{kind}.schema.json", json.dumps(schema_of(kind), indent=1) + "\n")
        for kind in ("scenario", "topology")
    ]
    _copy(copies, force)
    for argument in left:
        click.echo(f"not mapped  {argument}")
    click.echo(f"next: sim {'run' if described is None and served is None else 'check'} {copies[0][0]}")


def _refusal(message: str, suggestion: str | None = None) -> InputError:
    return InputError([Problem("", None, None, "", message, suggestion)])


def _list() -> None:
    from sim.report.screen import screen

    here = screen()
    scenarios, topologies = _files()
    for what, files in (("scenarios", scenarios), ("topologies", topologies)):
        rows = [[stem, _about(path)] for stem, path in sorted(files.items())]
        click.echo("\n".join([what, *here.table(rows, left=(0, 1), indent="  ", heads=0)]))


def _files() -> tuple[dict[str, Path], dict[str, Path]]:
    """The shipped scenarios and topologies by name."""
    from sim.catalog import shipped

    scenarios = {p.stem: p for p in shipped("scenarios")}
    scenarios |= {f"article/{p.stem}": p for p in shipped("scenarios/article")}
    return scenarios, {p.stem: p for p in shipped("topologies")}


def _shipped(name: str, folder: Path) -> list[tuple[Path, str]]:
    """A shipped scenario and its topologies, to be written."""
    scenarios, topologies = _files()
    wanted = name.removesuffix(".yaml").removeprefix("scenarios/")
    if wanted not in scenarios:
        raise _refusal(f"there is no shipped scenario '{wanted}'", did_you_mean(wanted, scenarios))
    source = scenarios[wanted].read_text(encoding="utf-8")
    copies = [(folder / "scenarios" / f"{wanted}.yaml", source)]
    copies += [
        (folder / "topologies" / f"{stem}.yaml", path.read_text(encoding="utf-8"))
        for stem, path in topologies.items() if f"topologies/{stem}.yaml" in source
    ]  # fmt: skip
    return copies


def _machine(
    file: str, name: str | None, gpus: tuple[str, ...], nic: str | None, folder: Path
) -> list[tuple[Path, str]]:
    """The topology of a described machine and a scenario on it, to be written."""
    from sim.adapters.lookup import Library
    from sim.adapters.nvidia_files import scenario_text, topology_text
    from sim.adapters.nvidia_topology import MAX_BYTES, describe, parse_machine, read_machine
    from sim.adapters.validation import validate
    from sim.adapters.yaml_source import parse_yaml
    from sim.spec.topology import TopologySpec

    stem = "machine" if file == "-" else re.sub(r"[^A-Za-z0-9._+-]+", "-", Path(file).stem).lstrip("._+-")[:80]
    name = _named(name or stem or "machine")
    library = Library()
    for gpu in gpus:
        library.gpu(gpu)
    if nic is not None:
        _network_link(library, nic)
    if file == "-":
        machine, origin = parse_machine(sys.stdin.buffer.read(MAX_BYTES + 1), "<standard input>"), "standard input"
    else:
        machine, origin = read_machine(Path(file)), Path(file).name
    found = describe(machine, name, gpus, nic)
    topology = topology_text(found, origin)
    path = folder / "topologies" / f"{name}.yaml"
    validate(TopologySpec, parse_yaml(topology, str(path)))  # what is written is what sim check would accept
    return [(folder / "scenarios" / f"{name}.yaml", scenario_text(found, name)), (path, topology)]


def _named(name: str) -> str:
    """A name for files."""
    name = name.removesuffix(".yaml")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}", name):
        raise _refusal(f"NAME '{name[:80]}' must be letters, digits and . _ + - (at most 80)")
    return name


def _served(
    said: str, name: str | None, topology: str | None, folder: Path
) -> tuple[list[tuple[Path, str]], list[str]]:
    """A scenario of vLLM's arguments, and its topology if that is a shipped one, to be written; what is not mapped."""
    from sim.adapters.resolve import resolve
    from sim.adapters.vllm_arguments import MAX_BYTES, parse_command, read_arguments
    from sim.adapters.vllm_limits import with_defaults
    from sim.adapters.vllm_scenario import map_arguments, scenario_text
    from sim.adapters.yaml_source import parse_yaml
    from sim.laws.arrange import layouts, topology_of

    if topology is None:
        raise _refusal("--from-vllm tells how a model is served, not where: add --topology (sim init --list has some)")
    if said == "-":
        text = sys.stdin.buffer.read(MAX_BYTES + 1).decode("utf-8", errors="replace")
        arguments, origin = parse_command(text, "<standard input>"), "standard input"
    else:
        arguments = read_arguments(said)
        origin = "a command" if re.search(r"\s", said) or not Path(said).exists() else Path(said).name
    mapped = map_arguments(arguments)
    name = _named(name or f"vllm-{re.sub(r'[^A-Za-z0-9._+-]+', '-', mapped.title)}")
    path = folder / "scenarios" / f"{name}.yaml"
    copies, there, written = _cluster(topology, folder)

    def checked() -> Resolved:
        return resolve(parse_yaml(scenario_text(mapped, name, str(there), origin), str(path)), folder)

    # Which GPUs serve is known once the job is laid out; vLLM's limits follow from them.
    resolved = checked()
    cluster = topology_of(resolved)
    (layout,) = layouts(resolved, cluster)
    kinds = dict.fromkeys(cluster.gpus[gpu].gpu for gpu in layout.gpus)
    mapped.told += with_defaults(mapped.job, [resolved.gpus[kind] for kind in kinds], resolved.serving[0].model.context)
    # What is written is what sim check would accept.
    layouts(checked(), cluster)
    return [(path, scenario_text(mapped, name, written, origin)), *copies], mapped.left


def _cluster(topology: str, folder: Path) -> tuple[list[tuple[Path, str]], Path, str]:
    """A topology to be written beside a scenario, if it is a shipped one; where it is now, and its path from there."""
    import os

    file = Path(topology)
    if file.is_file():
        return [], file.resolve(), os.path.relpath(file.resolve(), (folder / "scenarios").resolve())
    _, topologies = _files()
    stem = topology.removesuffix(".yaml").removeprefix("topologies/")
    if stem not in topologies:
        text = f"--topology {topology} is neither a file nor a shipped topology"
        raise _refusal(text, did_you_mean(stem, topologies))
    source = topologies[stem]
    copy = (folder / "topologies" / f"{stem}.yaml", source.read_text(encoding="utf-8"))
    return [copy], source.resolve(), f"../topologies/{stem}.yaml"


def _network_link(library: Library, nic: str) -> None:
    kind = library.link(nic).kind
    if kind in ("nvlink", "pcie", "socket", "memory"):
        raise _refusal(f"--nic {nic} is {kind}, not a link of a network card such as infiniband-ndr or roce-100g")


def _copy(copies: list[tuple[Path, str]], force: bool) -> None:
    from sim.cli.common import write_file

    there = [path for path, text in copies if path.exists() and path.read_bytes() != text.encode()]
    if there and not force:
        message = "is already there (--force overwrites it)"
        raise InputError([Problem(str(path), None, None, "", message, None) for path in there])
    for path, text in copies:
        write_file(path, text)
        click.echo(f"wrote {path}")


def _about(path: Path) -> str:
    """The scenario's or topology's own first sentence."""
    from sim.adapters.yaml_source import load_yaml

    data = load_yaml(path).data
    text = " ".join(str(data.get("about", "")).split())
    return text if len(text) <= 90 else text[:87] + "..."
