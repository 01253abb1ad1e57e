"""Units: what is read, what is refused and in which words, and that text and SI floats agree."""

import json
import math
from decimal import Decimal
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sim import units
from sim.units import BARE_SI, DIMENSIONS, Bandwidth, Bytes, Fraction, Seconds, Tokens, UnitError, parse

GOOD = [
    ("24 GB", "Bytes", 24e9),
    ("80GiB", "Bytes", 80 * 2**30),
    ("1,024 MiB", "Bytes", 2**30),
    ("512 bytes", "Bytes", 512),
    ("  .5 kB ", "Bytes", 500),
    ("0", "Bytes", 0),
    ("2.039 TB/s", "BytesPerSecond", 2.039e12),
    ("400 GB / s", "BytesPerSecond", 4e11),
    ("10 Gbps", "Bandwidth", 1.25e9),
    ("10 Gbit/s", "Bandwidth", 1.25e9),
    ("25Gb/s", "Bandwidth", 3.125e9),
    ("1.25 GB/s", "Bandwidth", 1.25e9),
    ("165.2 TFLOPS", "FlopRate", 165.2e12),
    ("330 TFLOP/s", "FlopRate", 330e12),
    ("660 TOPS", "FlopRate", 660e12),
    ("250 ms", "Seconds", 0.25),
    ("0.3 ms", "Seconds", 0.0003),
    ("30 us", "Seconds", 30e-6),
    ("30 µs", "Seconds", 30e-6),
    ("10 min", "Seconds", 600),
    ("1 h", "Seconds", 3600),
    ("5 days", "Seconds", 432_000),
    ("12 months", "Seconds", 8760 * 3600),
    ("3 years", "Seconds", 3 * 8760 * 3600),
    ("20000 USD", "Usd", 20_000),
    ("$20,000", "Usd", 20_000),
    ("$1.5M", "Usd", 1.5e6),
    ("20k USD", "Usd", 20_000),
    ("2.5 USD/h", "UsdPerHour", 2.5),
    ("$2.5 per hour", "UsdPerHour", 2.5),
    ("1460 USD/month", "UsdPerHour", 2),
    ("8760 USD/year", "UsdPerHour", 1),
    ("0.10 USD/kWh", "UsdPerKwh", 0.10),
    ("100 USD/MWh", "UsdPerKwh", 0.10),
    ("0.5 USD/Mtok", "UsdPerMillionTokens", 0.5),
    ("$0.5 per 1M tokens", "UsdPerMillionTokens", 0.5),
    ("0.002 USD/ktok", "UsdPerMillionTokens", 2),
    ("450 W", "Watts", 450),
    ("3.6 kW", "Watts", 3600),
    ("1.31 ktok/s", "TokensPerSecond", 1310),
    ("4.7 req/s", "PerSecond", 4.7),
    ("4.7 requests/s", "PerSecond", 4.7),
    ("4.7/s", "PerSecond", 4.7),
    ("120/min", "PerSecond", 2),
    ("2048", "Tokens", 2048),
    ("2048 tokens", "Tokens", 2048),
    ("32 Ki", "Tokens", 32_768),
    ("15T tokens", "Tokens", 15 * 10**12),
    ("70%", "Fraction", 0.7),
    ("0.7", "Fraction", 0.7),
    ("100 %", "Fraction", 1),
]


@pytest.mark.parametrize(("text", "dimension", "value"), GOOD)
def test_reads(text, dimension, value):
    assert parse(text, dimension) == value


BAD = [
    ("24 GX", "Bytes", "'24 GX': unknown unit 'GX', did you mean 'GB'?"),
    ("24 gb", "Bytes", "'24 gb': unknown unit 'gb', did you mean 'GB'?"),
    ("5 mw", "Watts", "'5 mw': unknown unit 'mw', did you mean 'MW' or 'mW'?"),
    ("10 gbps", "Bandwidth", "'10 gbps': unknown unit 'gbps', did you mean 'Gbps' or 'GBps'?"),
    ("2 EUR", "Usd", "'2 EUR': unknown unit 'EUR', write it like 20000 USD"),
    ("24", "Bytes", "a bare 24 is ambiguous: write a unit, e.g. 24 GB"),
    ("10 GB", "BytesPerSecond", "an amount of bytes, not a rate in bytes per second: write 10 GB/s"),
    ("10 GB", "Bandwidth", "write 10 GB/s"),
    ("24 Gb", "Bytes", "an amount of bits, not an amount of bytes: write 24 GB"),
    ("10 Gbps", "BytesPerSecond", "bits per second, not a rate in bytes per second: write 1.25 GB/s"),
    ("900 GB/s", "Bytes", "a rate in bytes per second, not an amount of bytes: write 900 GB"),
    ("$2", "UsdPerHour", "an amount of money, not a price per unit of time: write 2 USD/h"),
    ("250 W", "Seconds", "a power, not a length of time: write it like 250 ms"),
    ("24 tokens", "Bytes", "a number of tokens, not an amount of bytes"),
    ("0 USD", "Seconds", "an amount of money"),
    ("5 m", "Seconds", "'5 m' is ambiguous: write 5 min, 5 ms or 5 months"),
    ("32k", "Tokens", "'32k' is ambiguous: write the number in full, or '32 Ki' for 32 times 1024"),
    ("32k tokens", "Tokens", "is ambiguous"),
    ("1.5", "Tokens", "must be a positive whole number"),
    ("0", "Tokens", "must be a positive whole number"),
    ("0,10 USD/kWh", "UsdPerKwh", "a comma only separates thousands"),
    ("70", "Fraction", "70' is more than 1: write a share from 0 to 1, or a percentage up to 100%"),
    ("170%", "Fraction", "'170%' is more than 1"),
    ("-5 s", "Seconds", "'-5 s' is negative: a length of time cannot be below zero"),
    ("1e400 s", "Seconds", "is too large: a length of time may be at most 1e+13 s"),
    ("1e99999 s", "Seconds", "too large or too small"),
    ("1e-200 s", "Seconds", "is too small to be a length of time"),
    ("nan s", "Seconds", "is not a number with a unit: write it like 250 ms"),
    ("inf s", "Seconds", "is not a number with a unit"),
    ("", "Bytes", "is not a number with a unit"),
    ("GB", "Bytes", "is not a number with a unit"),
    ("٢٤ GB", "Bytes", "is not a number with a unit"),
    ("9" * 10_000 + " GB", "Bytes", "..."),
]


@pytest.mark.parametrize(("text", "dimension", "words"), BAD)
def test_refuses_and_says_what_to_write(text, dimension, words):
    with pytest.raises(UnitError) as caught:
        parse(text, dimension)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("dimension", DIMENSIONS.values(), ids=DIMENSIONS)
def test_the_example_of_each_type_is_read_and_its_schema_shows_it(dimension):
    assert parse(dimension.example, dimension) > 0
    schema = TypeAdapter(getattr(units, dimension.name)).json_schema()
    assert schema["examples"] == [dimension.example]
    assert dimension.example in schema["description"]
    assert "string" in schema["type"]
    assert (schema["type"] == "string") != dimension.bare


@given(
    st.decimals(min_value="0.000001", max_value=10**6, places=6),
    st.sampled_from([(d, u) for d in DIMENSIONS.values() for u in d.units if not d.whole and d.limit > 1]),
)
def test_text_is_the_nearest_float_to_number_times_factor(number, case):
    dimension, unit = case
    exact = number * dimension.units[unit]
    if 1e-30 < exact < dimension.limit:
        assert parse(f"{number} {unit}", dimension) == float(exact)


@given(st.floats(min_value=1e-9, max_value=1e12), st.sampled_from(["Bytes", "Seconds", "Watts", "Usd"]))
def test_si_floats_survive_the_way_through_json(value, name):
    adapter = TypeAdapter(getattr(units, name))
    stored = adapter.dump_json(adapter.validate_python(value, context=BARE_SI))
    assert adapter.validate_json(stored, context=BARE_SI) == value


@pytest.mark.parametrize(
    ("write", "dimension"),
    [
        (units.format_bytes, "Bytes"),
        (units.format_bandwidth, "Bandwidth"),
        (lambda value: units.format_bandwidth(value, bits=True), "Bandwidth"),
        (units.format_flops, "FlopRate"),
        (units.format_seconds, "Seconds"),
        (units.format_watts, "Watts"),
    ],
)
@given(value=st.floats(min_value=1, max_value=1e12))
def test_what_is_printed_reads_back_within_three_figures(write, dimension, value):
    assert parse(write(value), dimension) == pytest.approx(value, rel=0.006)


class Card(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    memory: Bytes
    link: Bandwidth = 0.0
    life: Seconds | None = None
    share: Fraction = 1.0
    tokens: Tokens = 1


def refusal(**fields):
    with pytest.raises(ValidationError) as caught:
        Card(**fields)
    (error,) = caught.value.errors()
    return error["msg"]


def test_a_bare_number_is_refused_unless_the_context_says_it_is_si():
    assert refusal(memory=24) == "a bare 24 is ambiguous: write a unit, e.g. 24 GB"
    assert Card(memory=0).memory == 0
    assert Card.model_validate({"memory": 24e9, "life": 3}, context=BARE_SI).memory == 24e9
    assert Card.model_validate({"memory": "24 GB"}, context=BARE_SI).memory == 24e9


def test_shares_and_tokens_need_no_unit():
    card = Card(memory=0, share=0.5, tokens=1e6)
    assert (card.share, card.tokens) == (0.5, 10**6)
    assert isinstance(card.tokens, int)
    assert "positive whole number" in refusal(memory=0, tokens=2.5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, -1e9, 10**400, 1e300, 1e-300])
def test_numbers_that_are_no_quantity_are_refused_in_every_context(value):
    with pytest.raises(ValidationError) as caught:
        Card.model_validate({"memory": value}, context=BARE_SI)
    assert caught.value.errors()[0]["type"] == "unit"


@pytest.mark.parametrize("value", [True, None, [1], {"GB": 24}])
def test_what_is_neither_text_nor_number_is_a_fault_of_shape(value):
    assert refusal(memory=value) == "must be a quantity like 24 GB"


def test_a_model_round_trips_through_si_json():
    card = Card(memory="24 GB", link="10 Gbps", life="3 years", share="70%", tokens="32 Ki")
    assert json.loads(card.model_dump_json()) == {
        "memory": 24e9,
        "link": 1.25e9,
        "life": 94_608_000.0,
        "share": 0.7,
        "tokens": 32_768,
    }
    assert Card.model_validate_json(card.model_dump_json(), context=BARE_SI) == card
    assert card.model_copy(update={"memory": 1.0}).memory == 1.0


def test_schemas_ask_for_text_and_promise_numbers():
    read = Card.model_json_schema(mode="validation")["properties"]
    written = Card.model_json_schema(mode="serialization")["properties"]
    assert read["memory"]["type"] == "string"
    assert read["tokens"]["type"] == ["integer", "string"]
    assert written["memory"]["type"] == "number"


def test_further_constraints_apply_to_the_si_value():
    adapter = TypeAdapter(Annotated[Bytes, Field(gt=1000)])
    assert adapter.validate_python("2 kB") == 2000
    with pytest.raises(ValidationError):
        adapter.validate_python("1 kB")


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (units.format_bytes(24e9), "24 GB"),
        (units.format_bytes(999.96e6), "1 GB"),
        (units.format_bytes(0), "0 B"),
        (units.format_bandwidth(1.25e9, bits=True), "10 Gbit/s"),
        (units.format_bandwidth(2.039e12), "2.04 TB/s"),
        (units.format_seconds(0), "0 s"),
        (units.format_seconds(30e-6), "30 us"),
        (units.format_seconds(0.25), "250 ms"),
        (units.format_seconds(0.9999), "1 s"),
        (units.format_seconds(90), "90 s"),
        (units.format_seconds(600), "10 min"),
        (units.format_seconds(3.5 * 3600), "3.5 h"),
        (units.format_seconds(5 * 86400), "5 days"),
        (units.format_seconds(3 * 8760 * 3600), "3 years"),
        (units.format_seconds(-0.25), "-250 ms"),
        (units.format_seconds(math.inf), "inf"),
        (units.format_flops(165.2e12), "165 TFLOP/s"),
        (units.format_usd(20_000), "20,000 USD"),
        (units.format_usd(1.5), "1.50 USD"),
        (units.format_usd(5), "5 USD"),
        (units.format_usd(0.32), "0.32 USD"),
        (units.format_usd(0.3), "0.30 USD"),
        (units.format_usd(0.1049), "0.105 USD"),
        (units.format_usd(0.4699), "0.470 USD"),
        (units.format_usd(0.9996), "1 USD"),
        (units.format_usd(0.0012), "0.0012 USD"),
        (units.format_usd(0), "0 USD"),
        (units.format_watts(450), "450 W"),
        (units.format_watts(3600), "3.6 kW"),
        (units.format_count(1310), "1,310"),
        (units.format_count(12_200), "12.2k"),
        (units.format_count(1.5e6), "1.5M"),
        (units.format_count(7e9), "7B"),
        (units.format_count(0.5), "0.5"),
        (units.format_percent(0.7), "70%"),
        (units.format_percent(0.074), "7.4%"),
        (units.format_percent(0.0032), "0.32%"),
        (units.format_percent(1.0), "100%"),
        (units.format_percent(math.nan), "n/a"),
        (units.format_usd(math.nan), "n/a"),
    ],
)
def test_formats(shown, text):
    assert shown == text


def test_factors_are_exact():
    assert units.BYTES.units["GiB"] == 2**30
    assert units.BANDWIDTH.units["Gbps"] == Decimal(10) ** 9 / 8
