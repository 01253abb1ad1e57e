"""The YAML loader: YAML 1.2 scalars, exact places, hostile input refused, errors in plain English."""

import contextlib
import math
import random
from enum import Enum
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    RootModel,
    Tag,
    model_validator,
)

from sim.adapters import yaml_source
from sim.adapters.validation import validate
from sim.adapters.yaml_source import Place, apply_overrides, load_yaml, parse_yaml
from sim.errors import InputError, Problem
from sim.units import BARE_SI, Bandwidth, Bytes, Fraction


def problems(call, *args, **kwargs):
    """The lines of the InputError that the call raises."""
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("24 GB", "24 GB"),
        ("=", "="),
        ("0o17", 15),
        ("0x1f", 31),
        ("010", 10),
        ("-3", -3),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("+1.", 1.0),
        ("-.inf", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'5'", "5"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("!!float 5", 5),
        ("! 5", "5"),
        ("|\n  two\n  lines", "two\nlines\n"),
    ],
)
def test_scalars_follow_yaml_1_2(text, value):
    found = parse_yaml(f"a: {text}\n").data["a"]
    assert found == value
    assert type(found) is type(value) or text == "!!float 5"


def test_not_a_number_is_a_number():
    assert math.isnan(parse_yaml(".nan").data)


def test_python_and_c_loaders_agree(monkeypatch):
    text = "a: [1, 'no', {b: 0x1f}]\nc: &x {d: ~}\ne: *x\nf: |\n  é\ng: 1\n"
    expected = parse_yaml(text)
    monkeypatch.setattr(yaml_source, "_LOADER", yaml_source.yaml.SafeLoader)
    assert parse_yaml(text) == expected


def test_places_are_exact_and_count_from_one():
    source = parse_yaml("é: 1\njobs:\n  - name: x\n    plan: {pp: 8, tp: [1, 2]}\n", "s.yaml")
    assert source.data == {"é": 1, "jobs": [{"name": "x", "plan": {"pp": 8, "tp": [1, 2]}}]}
    assert source.positions == {
        (): (1, 1),
        ("é",): (1, 4),
        ("jobs",): (3, 3),
        ("jobs", 0): (3, 5),
        ("jobs", 0, "name"): (3, 11),
        ("jobs", 0, "plan"): (4, 11),
        ("jobs", 0, "plan", "pp"): (4, 16),
        ("jobs", 0, "plan", "tp"): (4, 23),
        ("jobs", 0, "plan", "tp", 0): (4, 24),
        ("jobs", 0, "plan", "tp", 1): (4, 27),
    }
    assert source.keys == {
        ("é",): (1, 1),
        ("jobs",): (2, 1),
        ("jobs", 0, "name"): (3, 5),
        ("jobs", 0, "plan"): (4, 5),
        ("jobs", 0, "plan", "pp"): (4, 12),
        ("jobs", 0, "plan", "tp"): (4, 19),
    }
    assert source.place(("jobs", 0, "plan", "pp"), key=True) == Place("s.yaml", 4, 12)
    assert source.place(("jobs", 0, "plan", "gone", 3)) == Place("s.yaml", 4, 11)
    assert str(source.problem(("jobs", 0), "is odd", "y")) == "s.yaml:3:5: jobs.0: is odd, did you mean 'y'?"


def test_aliases_and_merges_are_written_out():
    source = parse_yaml("a: &x {p: 1, q: 1}\nb: *x\nc: {q: 2, <<: *x}\nd: {<<: [{p: 3}, *x]}\n")
    assert source.data["b"] == {"p": 1, "q": 1}
    assert source.data["b"] is not source.data["a"]
    assert source.data["c"] == {"q": 2, "p": 1}
    assert source.data["d"] == {"p": 3, "q": 1}
    assert source.positions["b",] == (2, 4)
    assert source.positions["b", "p"] == (1, 11)
    assert parse_yaml("'<<': 1").data == {"<<": 1}


def chain(length, item):
    return "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} {item.format(n - 1)}\n" for n in range(1, length))


LAUGHS = chain(12, "[*a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}]")
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{f'*a{n - 1}, ' * 3}]}}\n" for n in range(1, 19))
WIDE = f"b: &b {{{', '.join(f'k{n}: 1' for n in range(5000))}}}\nx: {{<<: [{'*b, ' * 5000}]}}"
HOSTILE = {
    "!!python/object": ("a: !!python/object/apply:os.system [x]", "s:1:4: YAML tags such as !!python/object"),
    "own tag": ("a: !thing x", "s:1:4: YAML tags such as !thing are not accepted"),
    "binary": ("a:\n  !!binary aGk=", "s:2:3: YAML tags such as !!binary"),
    "wrong core tag": ("a: !!int x", "s:1:4: 'x' is not !!int"),
    "billion laughs": (LAUGHS, "over 100,000 values once its aliases are written out"),
    "laughs by merge": (MERGES, "over 100,000 values once its aliases are written out"),
    "wide merge": (WIDE, "over 100,000 values once its aliases are written out"),
    "alias depth": (chain(30, "[*a{0}]"), "aliases within aliases more than 20 deep"),
    "self reference": ("a: &a [*a]", "s:1:8: alias '*a' stands before the end of its anchor"),
    "unknown alias": ("a: *b", "s:1:4: alias '*b'"),
    "merge of a scalar": ("<<: 3", "s:1:5: '<<' merges mappings only"),
    "duplicate key": ("a: 1\nb: 2\na: 3", "s:3:1: the key 'a' is given twice, first at line 1"),
    "two documents": ("a: 1\n---\nb: 1", "s:2:1: only one YAML document per file"),
    "integer key": ("a:\n  1: x", "s:2:3: a key must be text: put '1' in quotes"),
    "null key": ("~: x", "s:1:1: a key must be text: put '~' in quotes"),
    "list as key": ("? [a]\n: b", "s:1:3: a key must be text"),
    "deep flow": ("[" * 500_000, "nested more than 50 deep"),
    "deep mapping": ("{a: " * 60, "nested more than 50 deep"),
    "deep block": ("? " * 100_000, "nested more than 50 deep"),
    "many values": ("[" + "1," * 200_001 + "]", "over 100,000 values"),
    "NUL": ("a: 1\nb: x\0", "s:2:5: a NUL byte is not text"),
    "control character": ("a: \x01", "s:1:4: a control character (U+0001) is not text"),
    "lone surrogate": ("a: \ud800", "s:1:4: a control character (U+D800) is not text"),
    "long integer": ("a: " + "9" * 5000, "s:1:4: a number of more than 300 characters"),
    "long hexadecimal": ("a: 0x" + "f" * 5000, "s:1:4: a number of more than 300 characters"),
    "float overflow": ("a: 1e999", "s:1:4: the number 1e999 is too large"),
    "empty": ("", "s:1:1: the file is empty"),
    "comment only": ("# nothing\n", "s:1:1: the file is empty"),
    "tab": ("a:\n\tb: 1", "s:2:1: not valid YAML: a tab or reserved character"),
    "colon": ("a: b: c", "s:1:5: not valid YAML: a ':' is out of place"),
    "open list": ("a: [1,\nb", "that starts at line 1"),
    "open quote": ("a: 'x\nb: 1", "s:2:5: not valid YAML: the text ends before the closing quote"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_input_is_refused(case):
    text, words = HOSTILE[case]
    assert words in problems(parse_yaml, text, "s")[0]


def test_several_small_faults_are_told_at_once_but_not_without_end():
    assert len(problems(parse_yaml, "a: 1\na: 2\n1: x\nb: !t x")) == 3
    assert len(problems(parse_yaml, "a: 1\n" * 5000)) == 100


@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@`, \n\t?<~0.é", max_size=60))
def test_any_text_is_either_read_or_refused(text):
    with contextlib.suppress(InputError):
        assert parse_yaml(text).positions[()]


def test_a_file_is_read_with_its_name(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    source = load_yaml(path)
    assert (source.data, source.file, source.positions["a",]) == ({"a": 1}, str(path), (1, 4))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"a: 1\nb: \xc3\xa9\xff", "s.yaml:2:5: not UTF-8 text (byte 0xff)"),
        (b"\xef\xbb\xbfa: \xff", "s.yaml:1:4: not UTF-8 text (byte 0xff)"),
        ("a: 1".encode("utf-16"), "s.yaml:1:1: not UTF-8 text (byte 0xff)"),
        (b"#" * 5_000_001, "s.yaml: larger than 5 MB"),
    ],
)
def test_files_that_are_not_small_utf8_are_refused(tmp_path, raw, words):
    path = tmp_path / "s.yaml"
    path.write_bytes(raw)
    assert problems(load_yaml, path) == [f"{tmp_path}/{words}"]


def test_a_missing_file_suggests_its_neighbour(tmp_path):
    (tmp_path / "home.yaml").write_text("a: 1")
    (tmp_path / "home").mkdir()
    near = tmp_path / "home.yaml"
    missing = tmp_path / "hme.yaml"
    assert problems(load_yaml, missing) == [f"{missing}: no such file, did you mean '{near}'?"]
    folder = tmp_path / "home"
    assert problems(load_yaml, folder) == [f"{folder}: is a folder, not a file, did you mean '{near}'?"]
    nowhere = tmp_path / "gone" / "s.yaml"
    assert problems(load_yaml, nowhere) == [f"{nowhere}: no such file"]
    assert "cannot be read" in problems(load_yaml, "a\0b")[0]


# ---- --set


BASE = "name: x\njobs:\n  - plan: {pp: 2, tp: [1, 2]}\nfaults:\n"


def test_overrides_set_change_and_make_values():
    source = parse_yaml(BASE, "s.yaml")
    changed = apply_overrides(
        source,
        ["jobs.0.plan.pp=4", "jobs.0.plan.tp.1=no", "faults.mtbf=3 years", "a.b={c: [1, 0x10]}", "name="],
    )
    assert changed.data == {
        "name": None,
        "jobs": [{"plan": {"pp": 4, "tp": [1, "no"]}}],
        "faults": {"mtbf": "3 years"},
        "a": {"b": {"c": [1, 16]}},
    }
    assert source == parse_yaml(BASE, "s.yaml")
    assert changed.place(("jobs", 0, "plan", "pp")) == Place("--set jobs.0.plan.pp=4", None, None)
    assert changed.place(("a", "b", "c", 1)) == Place("--set a.b={c: [1, 0x10]}", None, None)
    assert changed.place(("a",), key=True) == Place("--set a.b={c: [1, 0x10]}", None, None)
    assert changed.place(("jobs", 0, "plan")) == Place("s.yaml", 3, 11)


def test_a_later_override_wins_and_takes_over_the_place():
    changed = apply_overrides(parse_yaml(BASE), ["a.b=1", "a.b=2", "jobs=[{plan: {pp: 3}}]", "a=5"])
    assert changed.data["a"] == 5
    assert changed.place(("a", "b")).file == "--set a=5"
    assert changed.place(("jobs", 0, "plan", "pp")).file == "--set jobs=[{plan: {pp: 3}}]"


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("a", "must be written path=value, for example plan.pp=4"),
        ("=3", "must be written path=value"),
        ("a..b=3", "must be written path=value"),
        ("jobs.1.plan.pp=4", "'1' is not an item of the list jobs (items: 0 to 0)"),
        ("jobs.-1.plan=4", "'-1' is not an item of the list jobs"),
        ("jobs.plan=4", "'plan' is not an item of the list jobs"),
        ("name.x=4", "name is 'x', which has no 'x' to set"),
        ("name=[1", "not valid YAML"),
        ("name=!!python/none", "YAML tags"),
        ("name=\udcff", "is not text"),
    ],
)
def test_malformed_overrides_are_refused_by_name(option, words):
    (line,) = problems(apply_overrides, parse_yaml(BASE), [option])
    assert line.startswith(f"--set {option}: ")
    assert words in line


def test_all_malformed_overrides_are_told_at_once():
    assert len(problems(apply_overrides, parse_yaml(BASE), ["a", "name=2", "b"])) == 2


# ---- validation


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Plan(Frozen):
    pp: Annotated[int, Field(ge=1)] = 1
    tp: int = 1


class Serving(Frozen):
    kind: Literal["serving"]
    clients: int
    plan: Plan = Plan()
    policy: Literal["continuous", "static"] = "continuous"


class Training(Frozen):
    kind: Literal["training"]
    training: Plan | None = None  # a key spelled like the branch of the union
    steps: int = 1


class Topology(Frozen):
    nodes: int
    link: Bandwidth


class Capital(Frozen):
    kind: Literal["capital"] = "capital"
    price: Bytes


class Rent(Frozen):
    kind: Literal["rent"] = "rent"
    rate: Bandwidth


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Tree(Frozen):
    size: int
    kids: list["Tree"] = []


Job = Annotated[Serving | Training, Field(discriminator="kind")]


def by_shape(value):
    return "many" if isinstance(value, list) else "one"


class Scenario(Frozen):
    name: str = "x"
    jobs: list[Job] = []
    named: dict[str, Job] = {}
    cluster: Topology | str | None = None
    memory: Bytes | Literal["auto"] = "auto"
    colour: Colour = Colour.RED
    cost: Capital | Rent | None = None
    share: Fraction = 0.5
    many: int | list[int] = 1
    plans: RootModel[dict[str, Plan]] | None = None
    either: Annotated[
        Annotated[Plan, Tag("one")] | Annotated[list[Plan], Tag("many")], Discriminator(by_shape)
    ] = Plan()
    wrapped: Annotated[Plan | list[Plan], BeforeValidator(lambda value: value)] = Plan()
    short: Annotated[Plan, BeforeValidator(lambda v: {"pp": v} if isinstance(v, str) else v)] = Plan()
    job_or_name: Job | str = "x"
    tree: Tree | None = None
    modes: dict[Literal["fast", "full"], int] = {}
    pair: tuple[int, str] = (1, "")
    flag: bool = False
    ratio: float = 1.0
    renamed: int = Field(1, alias="new-name")
    filled: list[int] = Field([1], min_length=1)

    @model_validator(mode="after")
    def _whole(self):
        if self.name == "bad":
            raise ValueError("the name is bad")
        return self


ERRORS = [
    ("nam: x", "1:1: nam: unknown key, did you mean 'name'?"),
    ("name: x\nzzzzzz: 1", "2:1: zzzzzz: unknown key"),
    ("name: bad", "1:1: the name is bad"),
    ("- 1", "1:1: must be a mapping, not a list"),
    ("name: 4090", "1:7: name: must be text, not 4090 (put it in quotes)"),
    ("name:", "1:6: name: must be text, not empty"),
    ("flag: often", "1:7: flag: must be true or false, not 'often'"),
    ("ratio: big", "1:8: ratio: must be a number, not 'big'"),
    ("new-name: x", "1:11: new-name: must be a whole number, not 'x'"),
    ("new-nam: 3", "1:1: new-nam: unknown key, did you mean 'new-name'?"),
    ("filled: []", "1:9: filled: must have at least 1 item, not 0"),
    ("colour: bleu", "1:9: colour: must be 'red' or 'blue', not 'bleu', did you mean 'blue'?"),
    ("modes:\n  ful: 1", "2:3: modes.ful: must be 'fast' or 'full', not 'ful', did you mean 'full'?"),
    ("pair: [x, y]", "1:8: pair.0: must be a whole number, not 'x'"),
    ("pair: [1]", "1:7: pair.1: is missing"),
    ("share: 70", "1:8: share: 70 is more than 1: write a share from 0 to 1, or a percentage up to 100%"),
    # lists, mappings, discriminated unions
    ("jobs: {a: 1}", "1:7: jobs: must be a list, not a mapping"),
    ("jobs: [5]", "1:8: jobs.0: must be a mapping, not 5"),
    ("jobs:\n  - kind: serving", "2:5: jobs.0.clients: is missing"),
    ("jobs:\n  - {kind: serving, clientz: 3}", "2:21: jobs.0.clientz: unknown key, did you mean 'clients'?"),
    (
        "jobs:\n  - {kind: servin}",
        "2:12: jobs.0.kind: must be 'serving' or 'training', not 'servin', did you mean 'serving'?",
    ),
    ("jobs:\n  - {clients: 3}", "2:5: jobs.0.kind: is missing: must be 'serving' or 'training'"),
    ("jobs:\n  - {kind: training, steps: x}", "2:29: jobs.0.steps: must be a whole number, not 'x'"),
    (
        "jobs:\n  - {kind: training, training: {steps: 1}, steps: x}",
        "2:33: jobs.0.training.steps: unknown key, did you mean 'jobs.0.steps'?\n"
        "2:51: jobs.0.steps: must be a whole number, not 'x'",
    ),
    (
        "jobs: [{kind: serving, clients: 1, plan: {ppp: 4}}]",
        "1:43: jobs.0.plan.ppp: unknown key, did you mean 'pp'?",
    ),
    (
        "jobs: [{kind: serving, clients: 1, plan: {pp: 0}}]",
        "1:47: jobs.0.plan.pp: must be greater than or equal to 1, not 0",
    ),
    (
        "jobs: [{kind: serving, clients: 1, policy: statik}]",
        "1:44: jobs.0.policy: must be 'continuous' or 'static', not 'statik', did you mean 'static'?",
    ),
    (
        "named: {training: {kind: training, stepz: 1}}",
        "1:36: named.training.stepz: unknown key, did you mean 'steps'?",
    ),
    # other unions: only the branch that was meant
    ("cluster: 5", "1:10: cluster: must be a mapping or text, not 5"),
    ("cluster: {nodez: 3, link: 10 Gbps}", "1:11: cluster.nodez: unknown key, did you mean 'nodes'?"),
    (
        "cluster: {nodes: 3, link: 10}",
        "1:27: cluster.link: a bare 10 is ambiguous: write a unit, e.g. 10 Gbit/s",
    ),
    ("memory: 24 GX", "1:9: memory: '24 GX': unknown unit 'GX', did you mean 'GB'?"),
    ("memory: atuo", "1:9: memory: must be 'auto', not 'atuo', did you mean 'auto'?"),
    ("memory: [1]", "1:9: memory: must be a quantity like 24 GB or 'auto', not a list"),
    ("many: lots", "1:7: many: must be a whole number or a list, not 'lots'"),
    ("many: [1, x]", "1:11: many.1: must be a whole number, not 'x'"),
    ("cost: {kind: rent, rte: 1 GB/s}", "1:20: cost.rte: unknown key, did you mean 'rate'?"),
    ("plans: {a: {pq: 1}}", "1:13: plans.a.pq: unknown key, did you mean 'pp'?"),
    ("either: {ppp: 1}", "1:10: either.ppp: unknown key, did you mean 'pp'?"),
    ("either: [{ppp: 1}]", "1:11: either.0.ppp: unknown key, did you mean 'pp'?"),
    ("wrapped: {ppp: 1}", "1:11: wrapped.ppp: unknown key, did you mean 'pp'?"),
    ("wrapped: [{pp: 1}, {pp: x}]", "1:25: wrapped.1.pp: must be a whole number, not 'x'"),
    ("short: x", "1:8: short.pp: must be a whole number, not 'x'"),
    (
        "job_or_name: {kind: training, stepz: 1}",
        "1:31: job_or_name.stepz: unknown key, did you mean 'steps'?",
    ),
    ("job_or_name: 5", "1:14: job_or_name: must be a mapping or text, not 5"),
    (
        "tree: {size: 1, kids: [{size: 2, kids: [{sise: 1}]}]}",
        "1:42: tree.kids.0.kids.0.sise: unknown key, did you mean 'size'?",
    ),
]


@pytest.mark.parametrize(("text", "lines"), ERRORS)
def test_each_error_is_in_plain_english_at_its_place(text, lines):
    assert problems(validate, Scenario, parse_yaml(text, "s")) == [f"s:{line}" for line in lines.split("\n")]


def test_all_errors_come_at_once_in_the_order_of_the_file():
    text = "flag: 7\njobs: [5]\nname: []\nzzzzzz: 1"
    found = problems(validate, Scenario, parse_yaml(text))
    assert [line.split(":")[1] for line in found] == ["1", "2", "3", "4"]


def test_no_error_speaks_pydantic():
    text = "\n".join(line for line, _ in ERRORS if line[0] != "-" and "\n" not in line)
    fields = {line.split(":")[0]: line for line in text.split("\n")}
    found = "\n".join(problems(validate, Scenario, parse_yaml("\n".join(fields.values()))))
    for jargon in ("Input should", "value_error", "Value error", "extra_forbidden", "function-", "dict"):
        assert jargon not in found


def test_a_valid_source_gives_the_model():
    source = parse_yaml("cluster: {nodes: 3, link: 10 Gbps}\njobs: [{kind: serving, clients: 1}]")
    scenario = validate(Scenario, source)
    assert scenario.cluster == Topology(nodes=3, link="10 Gbps")
    assert scenario.jobs[0].kind == "serving"


def test_context_reaches_the_types():
    assert validate(Topology, parse_yaml("{nodes: 1, link: 1.25e9}"), context=BARE_SI).link == 1.25e9


def test_part_of_a_source_keeps_its_places():
    source = parse_yaml("topology:\n  nodes: 3\n  link: 10 Gbps\n  lnk: 3\n", "s")
    assert problems(validate, Topology, source, base_path=("topology",)) == [
        "s:4:3: topology.lnk: unknown key, did you mean 'link'?"
    ]


def test_errors_in_overridden_values_name_the_option():
    file = parse_yaml("jobs: [{kind: serving, clients: 1}]\ncluster: {link: 10 GB}", "s")
    source = apply_overrides(file, ["jobs.0.plan={ppp: 1}", "cluster.nodess=3", "flag=7"])
    assert sorted(problems(validate, Scenario, source)) == [
        "--set cluster.nodess=3: cluster.nodess: unknown key, did you mean 'nodes'?",
        "--set flag=7: flag: must be true or false, not 7",
        "--set jobs.0.plan={ppp: 1}: jobs.0.plan.ppp: unknown key, did you mean 'pp'?",
        "s:2:17: cluster.link: '10 GB' is an amount of bytes, not a rate in bits or bytes per second: "
        "write 10 GB/s",
    ]


def test_errors_in_merged_values_are_where_they_were_written():
    source = parse_yaml("jobs:\n  - &j {kind: training, stepz: 1}\n  - {<<: *j, steps: 2}", "s")
    assert problems(validate, Scenario, source) == [
        "s:2:25: jobs.0.stepz: unknown key, did you mean 'steps'?",
        "s:2:25: jobs.1.stepz: unknown key, did you mean 'steps'?",
    ]


def test_random_damage_never_breaks_the_error_report():
    rng = random.Random(0)
    values = ["x", 5, -1, None, [], {}, [1, {}], {"kind": "serving"}, {"kind": []}, {"pp": {}}, True, "24 GX"]
    for _ in range(300):
        data = {name: rng.choice(values) for name in rng.sample(list(Scenario.model_fields), 6)}
        source = parse_yaml(repr(data).replace("None", "null").replace("True", "true"), "s")
        found: list[Problem] = []
        try:
            validate(Scenario, source)
        except InputError as error:
            found += error.problems
        assert all(problem.line == 1 and problem.column for problem in found)
