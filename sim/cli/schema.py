"""``sim schema``: the JSON Schema of the files users write."""

from __future__ import annotations

import json

import click


@click.command("schema")
@click.argument("kind", type=click.Choice(["scenario", "topology", "result", "comparison"]), default="scenario")
def command(kind: str) -> None:
    """Print the JSON Schema of a scenario (the default), a topology, a result, or a comparison."""
    click.echo(json.dumps(schema_of(kind), indent=1))


def schema_of(kind: str) -> dict[str, object]:
    """The schema as a dict."""
    if kind == "scenario":
        from sim.spec.scenario import Scenario

        return Scenario.model_json_schema()
    if kind == "topology":
        from sim.spec.topology import TopologySpec

        return TopologySpec.model_json_schema()
    if kind == "comparison":
        from sim.study.compare_schema import Comparison

        return Comparison.model_json_schema()
    from sim.results.schema import Result

    return Result.model_json_schema()
