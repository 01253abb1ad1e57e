"""``sim schema``: JSON Schema that editors read, and that agrees with the files people write."""

import json
import re
from pathlib import Path

import pytest

from sim.adapters.yaml_source import load_yaml

ROOT = Path(__file__).parents[2]
KINDS = ("scenario", "topology", "result", "comparison")
TYPES = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int,
    "number": (int, float),
}  # fmt: skip


@pytest.fixture(scope="module")
def schemas(sim):
    return {kind: sim("schema", kind).json for kind in KINDS}


def parts(schema):
    """Every mapping within a schema that is a schema itself."""
    yield schema
    for key in ("$defs", "properties"):
        for part in schema.get(key, {}).values():
            yield from parts(part)
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for part in schema.get(key, []):
            yield from parts(part)
    for key in ("items", "additionalProperties", "propertyNames"):
        if isinstance(schema.get(key), dict):
            yield from parts(schema[key])


def faults(value, schema, root, path="$"):
    """What of the keywords used here a value violates."""
    if "$ref" in schema:
        schema = {**root["$defs"][schema["$ref"].removeprefix("#/$defs/")], **schema}
    for choices in (schema.get("anyOf"), schema.get("oneOf")):
        if choices and all(list(faults(value, choice, root, path)) for choice in choices):
            yield f"{path}: none of the choices"
    types = schema.get("type", [])
    allowed = tuple(TYPES[t] for t in ([types] if isinstance(types, str) else types))
    if allowed:
        flat = tuple(t for entry in allowed for t in (entry if isinstance(entry, tuple) else (entry,)))
        if not isinstance(value, flat) or (isinstance(value, bool) and bool not in flat):
            yield f"{path}: not {types}"
            return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: not one of {schema['enum']}"
    if "const" in schema and value != schema["const"]:
        yield f"{path}: not {schema['const']}"
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        yield f"{path}: pattern"
    if isinstance(value, int | float):
        low, above = schema.get("minimum", value), schema.get("exclusiveMinimum", value - 1)
        if not (above < value <= schema.get("maximum", value) and value >= low):
            yield f"{path}: out of bounds"
    if isinstance(value, dict):
        known = schema.get("properties", {})
        yield from (f"{path}.{key}: missing" for key in schema.get("required", []) if key not in value)
        for key, item in value.items():
            if key in known:
                yield from faults(item, known[key], root, f"{path}.{key}")
            elif schema.get("additionalProperties") is False:
                yield f"{path}.{key}: unknown"
            elif isinstance(schema.get("additionalProperties"), dict):
                yield from faults(item, schema["additionalProperties"], root, f"{path}.{key}")
    if isinstance(value, list):
        places = schema.get("prefixItems", [])
        for i, item in enumerate(value):
            inner = places[i] if i < len(places) else schema.get("items", {})
            yield from faults(item, inner if isinstance(inner, dict) else {}, root, f"{path}[{i}]")


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_schema(schemas, kind):
    schema = schemas[kind]
    assert schema["type"] == "object"
    assert schema["description"]
    for part in parts(schema):
        if "$ref" in part:
            assert part["$ref"].removeprefix("#/$defs/") in schema["$defs"]
        assert set([part["type"]] if isinstance(part.get("type"), str) else part.get("type", [])) <= TYPES.keys()
        assert set(part.get("required", [])) <= part.get("properties", {}).keys()
        re.compile(part.get("pattern", ""))


def test_the_default_is_the_scenario(sim, schemas):
    assert sim("schema").json == schemas["scenario"]


@pytest.mark.parametrize("file", sorted((ROOT / "docs").glob("*.schema.json")), ids=lambda file: file.name)
def test_the_committed_schemas_are_these(schemas, file):
    kind = file.name.removesuffix(".schema.json")
    assert json.loads(file.read_text()) == schemas[kind], f"sim schema {kind} > docs/{file.name}"


def test_both_kinds_that_people_write_are_committed():
    assert {"scenario.schema.json", "topology.schema.json"} <= {p.name for p in (ROOT / "docs").glob("*.schema.json")}


@pytest.mark.parametrize("kind", ["scenario", "topology"])
def test_an_editor_underlines_nothing_in_shipped_files(schemas, kind):
    folder = {"scenario": "scenarios", "topology": "topologies"}[kind]
    for file in sorted((ROOT / folder).glob("*.yaml")):
        assert list(faults(load_yaml(file).data, schemas[kind], schemas[kind])) == [], file.name
        assert file.read_text().startswith(f"# yaml-language-server: $schema=../docs/{kind}.schema.json\n")


def test_an_editor_underlines_mistakes(schemas):
    schema = schemas["scenario"]
    good = load_yaml(ROOT / "scenarios" / "4090_pp_home.yaml").data
    assert list(faults({**good, "sede": 1}, schema, schema)) == ["$.sede: unknown"]
    assert list(faults({**good, "seed": -1}, schema, schema)) == ["$.seed: out of bounds"]
    assert list(faults({**good, "name": "a/b"}, schema, schema)) == ["$.name: pattern"]
    assert list(faults({key: good[key] for key in good if key != "jobs"}, schema, schema)) == ["$.jobs: missing"]


def test_a_result_follows_the_schema_of_results(schemas, flagship):
    assert list(faults(flagship.document, schemas["result"], schemas["result"])) == []
