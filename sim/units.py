"""Units at the door: "24 GB" comes in, an SI float lives inside, text goes out again.

A dimension is a table from unit spelling to factor. Reading a quantity is one regular expression and one
look-up; only a failure searches further, for a message that says what to write instead. Factors are decimals,
so that "2.039 TB/s" is the float nearest to 2.039e12 and not the product of two rounded floats.

Each dimension is also a pydantic type (`Bytes`, `Seconds`, ...). A bare number is refused where a unit is
required, except 0. Values that are SI already (a stored result) are re-read with the validation context
`BARE_SI`. Models serialise to SI floats. Prices are held in the unit their type names: USD/h, USD/kWh, USD
per million tokens.

Meaning of the spellings: b is a bit, B is a byte, case matters; GB is 1e9, GiB is 2**30; a month is 730 h,
a year 8,760 h. "32k" tokens is refused, because the field uses it for 32,000 and for 32,768 alike ("32 Ki"
is the latter).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic_core import PydanticCustomError, core_schema

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo

BARE_SI: Final[dict[str, bool]] = {"bare_si": True}
"""Validation context under which bare numbers are taken as SI."""

SMALLEST: Final = 1e-30
"""A quantity above zero but below this, in SI, is a slip of the pen in every dimension."""


class UnitError(ValueError):
    """The text is not a quantity of the wanted dimension; the message says what to write instead."""


@dataclass(frozen=True, eq=False, slots=True)
class Dimension:
    """What a quantity measures, and the spellings it is read from. Also the metadata of a pydantic type."""

    name: str
    """Name of the pydantic type."""
    noun: str
    """Completes "'10 GB' is ...": "an amount of bytes"."""
    si: str
    """Unit of the float inside."""
    example: str
    units: Mapping[str, Decimal]
    limit: float
    """Largest value accepted, in SI: above it there is a slip of the pen."""
    bare: bool = False
    """True where a number needs no unit."""
    whole: bool = False
    """True for counts: a positive whole number."""

    def read(self, value: object, info: ValidationInfo) -> float:
        """Validator: text with a unit, or a bare number where one is allowed."""
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            message = f"must be a quantity like {self.example}"
            raise PydanticCustomError("unit_type", "{message}", {"message": message})
        try:
            if isinstance(value, str):
                return parse(value, self)
            return _from_number(value, self, bool((info.context or {}).get("bare_si")))
        except UnitError as error:
            raise PydanticCustomError("unit", "{message}", {"message": str(error)}) from None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.with_info_before_validator_function(self.read, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        if handler.mode == "serialization":
            return handler(schema)
        number = "integer" if self.whole else "number"
        return {
            "type": [number, "string"] if self.bare else "string",
            "description": f"{self.noun[0].upper()}{self.noun[1:]}, for example {self.example}",
            "examples": [self.example],
        }


def _prefixed(prefixes: str, stems: Iterable[str], factor: Decimal = Decimal(1)) -> dict[str, Decimal]:
    return {prefix + stem: _PREFIX[prefix] * factor for stem in stems for prefix in ["", *prefixes]}


def _per(amounts: Mapping[str, Decimal], times: Mapping[str, Decimal]) -> dict[str, Decimal]:
    return {f"{a}/{t}": amount / time for a, amount in amounts.items() for t, time in times.items()}


_POWER = {"": 0, "k": 3, "K": 3, "M": 6, "B": 9, "G": 9, "T": 12, "P": 15, "E": 18}  # B: billion
_PREFIX = {prefix: Decimal(10) ** power for prefix, power in _POWER.items()}
_BINARY = {p: Decimal(1024) ** n for n, p in enumerate(["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"], 1)}
_MINUTE, _HOUR, _DAY, _MONTH, _YEAR = (Decimal(n) for n in (60, 3600, 86_400, 730 * 3600, 8760 * 3600))

_TIME = {"s": Decimal(1), "ms": Decimal("1e-3"), "us": Decimal("1e-6"), "ns": Decimal("1e-9")}
_TIME |= {"µs": Decimal("1e-6"), "μs": Decimal("1e-6")}  # micro sign and Greek mu look alike
for _spellings, _seconds in {
    "sec second seconds": Decimal(1),
    "min minute minutes": _MINUTE,
    "h hr hour hours": _HOUR,
    "d day days": _DAY,
    "week weeks": 7 * _DAY,
    "month months": _MONTH,
    "year years yr": _YEAR,
}.items():
    _TIME |= dict.fromkeys(_spellings.split(), _seconds)

_BYTE = _prefixed("kMGTPEK", ["B"]) | {f"{p}B": factor for p, factor in _BINARY.items()}
_BYTE |= {"byte": Decimal(1), "bytes": Decimal(1)}
_BYTE_RATE = _per(_BYTE, {"s": Decimal(1)}) | _prefixed("kMGTPEK", ["Bps"])
_BIT = _prefixed("kMGTPEK", ["b", "bit", "bits"], 1 / Decimal(8))
_BIT_RATE = _per(_BIT, {"s": Decimal(1)}) | _prefixed("kMGTPEK", ["bps"], 1 / Decimal(8))
_FLOP = ["FLOPS", "FLOP/s", "FLOPs", "FLOPs/s", "flops", "flop/s", "OPS", "OP/s"]
_MONEY = _prefixed("kKMB", ["USD"]) | {"dollar": Decimal(1), "dollars": Decimal(1)}
_DOLLAR = {"USD": Decimal(1)}
_TOKEN = ["tok", "token", "tokens"]
_COUNT = _prefixed("MBGT", ["", *_TOKEN]) | {p + s: f for p, f in _BINARY.items() for s in ["", *_TOKEN]}
_PER_TIME = {t: _TIME[t] for t in ("s", "second", "min", "minute", "h", "hour", "day")}
_TOKEN_RATE = _per(_prefixed("kKMB", _TOKEN), _PER_TIME)
_REQUEST_RATE = _per(dict.fromkeys(["", "req", "request", "requests"], Decimal(1)), _PER_TIME)
_REQUEST_RATE |= dict.fromkeys(["rps", "qps"], Decimal(1))
_PRICE_TIME = {t: _TIME[t] / _HOUR for t in ("s", "min", "h", "hr", "hour", "day", "month", "year", "yr")}
_ENERGY = {"kWh": Decimal(1), "MWh": Decimal(1000), "Wh": Decimal("1e-3")}
_MILLION_TOKENS = {unit: factor / 10**6 for unit, factor in _prefixed("kKMB", _TOKEN).items()}
_TOKEN_PRICE = _per(_DOLLAR, _MILLION_TOKENS | {f"1{u}": f for u, f in _MILLION_TOKENS.items()})

BYTES = Dimension("Bytes", "an amount of bytes", "B", "24 GB", _BYTE, 1e24)
BYTES_PER_SECOND = Dimension(
    "BytesPerSecond", "a rate in bytes per second", "B/s", "400 GB/s", _BYTE_RATE, 1e21
)
BANDWIDTH = Dimension(
    "Bandwidth", "a rate in bits or bytes per second", "B/s", "10 Gbit/s", _BIT_RATE | _BYTE_RATE, 1e21
)
FLOP_RATE = Dimension(
    "FlopRate", "a rate of operations", "FLOP/s", "165.2 TFLOPS", _prefixed("kMGTPEK", _FLOP), 1e27
)
SECONDS = Dimension("Seconds", "a length of time", "s", "250 ms", _TIME, 1e13)
USD = Dimension("Usd", "an amount of money", "USD", "20000 USD", _MONEY, 1e15)
USD_PER_HOUR = Dimension(
    "UsdPerHour", "a price per unit of time", "USD/h", "2.5 USD/h", _per(_MONEY, _PRICE_TIME), 1e12
)
USD_PER_KWH = Dimension(
    "UsdPerKwh", "a price of energy", "USD/kWh", "0.10 USD/kWh", _per(_DOLLAR, _ENERGY), 1e9
)
USD_PER_MILLION_TOKENS = Dimension(
    "UsdPerMillionTokens", "a price of tokens", "USD/Mtok", "0.5 USD/Mtok", _TOKEN_PRICE, 1e12
)
WATTS = Dimension("Watts", "a power", "W", "450 W", _prefixed("kMG", ["W"]) | {"mW": Decimal("1e-3")}, 1e15)
TOKENS_PER_SECOND = Dimension(
    "TokensPerSecond", "a rate of tokens", "tok/s", "1310 tok/s", _TOKEN_RATE, 1e18
)
PER_SECOND = Dimension("PerSecond", "a rate of requests", "req/s", "4.7 req/s", _REQUEST_RATE, 1e15)
TOKENS = Dimension(
    "Tokens", "a number of tokens", "tokens", "2048 tokens", _COUNT, 1e18, bare=True, whole=True
)
FRACTION = Dimension(
    "Fraction", "a share from 0 to 1", "", "70%", {"": Decimal(1), "%": Decimal("0.01")}, 1.0, bare=True
)

_ALL = (
    *(BYTES, BYTES_PER_SECOND, BANDWIDTH, FLOP_RATE, SECONDS, USD, USD_PER_HOUR, USD_PER_KWH),
    *(USD_PER_MILLION_TOKENS, WATTS, TOKENS_PER_SECOND, PER_SECOND, TOKENS, FRACTION),
)
DIMENSIONS: Final[dict[str, Dimension]] = {dimension.name: dimension for dimension in _ALL}

Bytes = Annotated[float, BYTES]
BytesPerSecond = Annotated[float, BYTES_PER_SECOND]
Bandwidth = Annotated[float, BANDWIDTH]
FlopRate = Annotated[float, FLOP_RATE]
Seconds = Annotated[float, SECONDS]
Usd = Annotated[float, USD]
UsdPerHour = Annotated[float, USD_PER_HOUR]
UsdPerKwh = Annotated[float, USD_PER_KWH]
UsdPerMillionTokens = Annotated[float, USD_PER_MILLION_TOKENS]
Watts = Annotated[float, WATTS]
TokensPerSecond = Annotated[float, TOKENS_PER_SECOND]
PerSecond = Annotated[float, PER_SECOND]
Tokens = Annotated[int, TOKENS]
Fraction = Annotated[float, FRACTION]

# Recognised only to say what a misplaced quantity is; the narrow dimensions come before the wide ones.
_BITS = Dimension("", "an amount of bits", "B", "", _BIT, math.inf)
_BITS_PER_SECOND = Dimension("", "a rate in bits per second", "B/s", "", _BIT_RATE, math.inf)
_SPOKEN_TOKENS = Dimension("", TOKENS.noun, "", "", {u: f for u, f in _COUNT.items() if "tok" in u}, math.inf)
_KNOWN = (_BITS, BYTES_PER_SECOND, _BITS_PER_SECOND, _SPOKEN_TOKENS, *(d for d in _ALL if d is not TOKENS))

_QUANTITY = re.compile(
    r"""\s* (?P<sign>[+-]?) (?P<dollar>\$?) \s*
    (?P<digits> (?: [0-9]{1,3} (?:,[0-9]{3})+ (?![0-9]) | [0-9]+ ) (?:\.[0-9]*)? | \.[0-9]+ )
    (?P<exponent> [eE][+-]?[0-9]+ )? \s* (?P<unit>.*?) \s*""",
    re.VERBOSE,
)


def parse(text: str, dimension: Dimension | str) -> float:
    """The quantity in `text` as an SI float (an int for `TOKENS`); raises `UnitError` saying what to write.

    `dimension` is one of the constants here (`BYTES`) or the name of its type ("Bytes").
    """
    wanted = DIMENSIONS[dimension] if isinstance(dimension, str) else dimension
    found = _QUANTITY.fullmatch(text) if len(text) <= 100 else None
    shown = f"'{text.strip()}'" if len(text) <= 100 else f"'{text[:40]}...'"
    if found is None:
        raise UnitError(f"{shown} is not a number with a unit: write it like {wanted.example}")
    sign, dollar, digits, exponent, unit = found.groups()
    if dollar:
        unit = re.sub(r"^([kKMB]?)", r"\1USD ", unit)  # $1.5M and $2/h as 1.5 MUSD and 2 USD/h
    number = digits.replace(",", "")
    if exponent:
        if len(exponent) > 5:
            raise UnitError(f"{shown} is too large or too small a number")
        number += exponent
    exact = Decimal(number)
    if sign == "-" and exact:
        raise UnitError(f"{shown} is negative: {wanted.noun} cannot be below zero")
    factor = wanted.units.get(unit)
    if factor is None:
        unit = _plain(unit)
        factor = wanted.units.get(unit)
    if factor is None:
        if exact or unit:
            raise UnitError(_explain(shown, digits + (exponent or ""), unit, wanted))
        return 0.0
    return _checked(exact * factor, shown, wanted)


def _plain(unit: str) -> str:
    """The unit without blanks, with '/' for 'per' and 'USD' for '$'."""
    return re.sub(r"\s+", "", re.sub(r"\s*\bper\s+", "/", unit)).replace("US$", "USD").replace("$", "USD")


def _from_number(value: float, wanted: Dimension, bare_si: bool) -> float:
    if isinstance(value, float) and not math.isfinite(value):
        raise UnitError(f"{value} is not {wanted.noun}: write it like {wanted.example}")
    shown = str(value) if abs(value) < 10**20 else "the number"  # str() refuses integers of 4,300 digits
    if value < 0:
        raise UnitError(f"{shown} is negative: {wanted.noun} cannot be below zero")
    if value and not (wanted.bare or bare_si):
        raise UnitError(_ambiguous(shown, wanted))
    return _checked(Decimal(abs(value)), shown, wanted)  # abs: no -0.0


def _checked(exact: Decimal, shown: str, wanted: Dimension) -> float:
    """The float inside, once its size has been found sensible."""
    if exact > wanted.limit:
        if wanted is FRACTION:
            raise UnitError(f"{shown} is more than 1: write a share from 0 to 1, or a percentage up to 100%")
        raise UnitError(f"{shown} is too large: {wanted.noun} may be at most {wanted.limit:g} {wanted.si}")
    value = float(exact)
    if exact and value < SMALLEST:
        raise UnitError(f"{shown} is too small to be {wanted.noun}")
    if not wanted.whole:
        return value
    if exact != int(exact) or not exact:
        raise UnitError(f"{shown} is not {wanted.noun}: it must be a positive whole number")
    return int(exact)


def _ambiguous(number: str, wanted: Dimension) -> str:
    example = f"{number} {wanted.example.split(' ', 1)[-1]}"
    if wanted is SECONDS:  # from kernels to years: nobody knows which was meant
        example = f"{number} ms, {number} s or {number} min"
    return f"a bare {number} is ambiguous: write a unit, e.g. {example}"


def _explain(shown: str, number: str, unit: str, wanted: Dimension) -> str:
    """Why `unit` does not do for the wanted dimension, and what would."""
    if not unit:
        return _ambiguous(number, wanted)
    if unit.startswith(","):
        return f"{shown}: a comma only separates thousands, write a decimal point as in {wanted.example}"
    if wanted is TOKENS and unit.lower().removesuffix("s") in ("k", "ktok", "ktoken"):
        return f"{shown} is ambiguous: write the number in full, or '{number} Ki' for {number} times 1024"
    if wanted is SECONDS and unit in ("m", "M"):
        return f"{shown} is ambiguous: write {number} min, {number} ms or {number} months"
    for other in _KNOWN:
        if unit in other.units:
            instead = _instead(number, unit, other, wanted)
            return f"{shown} is {other.noun}, not {wanted.noun}: write {instead}"
    # Spellings that differ only in case may mean different things (mW and MW): offer one of each meaning.
    meant: dict[Decimal, str] = {}
    for known, factor in wanted.units.items():
        if known.casefold() == unit.casefold():
            meant.setdefault(factor, known)
    close = difflib.get_close_matches(unit, filter(None, wanted.units), n=1, cutoff=0.5)
    options = " or ".join(repr(known) for known in list(meant.values()) or close)
    hint = f"did you mean {options}?" if options else f"write it like {wanted.example}"
    return f"{shown}: unknown unit '{unit}', {hint}"


def _instead(number: str, unit: str, found: Dimension, wanted: Dimension) -> str:
    """What to write where another dimension is wanted; keeps the user's number where it can."""
    if found is _BITS_PER_SECOND and wanted is BYTES_PER_SECOND:
        return format_bandwidth(float(Decimal(number.replace(",", "")) * found.units[unit]))
    stem = unit.split("/")[0]
    bytes_of_bits = re.sub("b(its?)?$", "B", stem)
    for near in (f"{unit}/{wanted.si.split('/')[-1]}", stem, bytes_of_bits):
        if near and near in wanted.units:
            return f"{number} {near}"
    return f"it like {wanted.example}"


def _scaled(value: float, unit: str, steps: Iterable[tuple[float, str]], glue: str = " ") -> str:
    """Three significant figures in the largest step that the rounded value reaches; `steps` go downwards."""
    if not math.isfinite(value):
        return "n/a" if math.isnan(value) else str(value)
    rounded = float(f"{value:.3g}")
    size, prefix = 1.0, ""
    for size, prefix in steps if rounded else ():  # noqa: B007 (used after the loop: the smallest step stands)
        if abs(rounded) >= size:
            break
    return f"{_figures(value / size)}{glue}{prefix}{unit}".strip()


def _figures(value: float) -> str:
    """Three significant figures, thousands separated, no exponent for ordinary sizes."""
    rounded = float(f"{value:.3g}")
    if rounded == 0:
        return "0"
    if abs(rounded) >= 1000:
        return f"{value:,.0f}"
    if abs(rounded) < 1e-4:
        return f"{rounded:g}"
    return f"{rounded:.6f}".rstrip("0").rstrip(".")


_DECIMAL_STEPS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


def format_bytes(value: float) -> str:
    """24e9 as "24 GB"."""
    return _scaled(value, "B", _DECIMAL_STEPS)


def format_bandwidth(value: float, bits: bool = False) -> str:
    """Bytes per second as "400 GB/s", or as "10 Gbit/s" where `bits` (networks) is set."""
    return _scaled(value * 8, "bit/s", _DECIMAL_STEPS) if bits else _scaled(value, "B/s", _DECIMAL_STEPS)


def format_flops(value: float) -> str:
    """165.2e12 as "165 TFLOP/s"."""
    return _scaled(value, "FLOP/s", _DECIMAL_STEPS)


def format_watts(value: float) -> str:
    """3600 as "3.6 kW"."""
    return _scaled(value, "W", (*_DECIMAL_STEPS[3:], (1e-3, "m")))


_DAYS, _YEARS = 86_400, 8760 * 3600
_LONG_TIMES = ((2 * _YEARS, _YEARS, "years"), (2 * _DAYS, _DAYS, "days"), (7200, 3600, "h"), (120, 60, "min"))


def format_seconds(value: float) -> str:
    """A time as people say it: "30 us", "250 ms", "90 s", "10 min", "3.5 h", "5 days", "3 years"."""
    for start, size, name in _LONG_TIMES if math.isfinite(value) else ():
        if abs(value) >= start:
            return f"{_figures(value / size)} {name}"
    return _scaled(value, "s", ((1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n")))


def format_usd(value: float) -> str:
    """Whole dollars from 1,000 on, cents from 1 on, three significant figures below: "0.105 USD", "0.0012 USD"."""
    if not math.isfinite(value):
        return _scaled(value, "", ())
    if abs(value) >= 1000:
        return f"{value:,.0f} USD"
    cents = abs(value) >= 0.9995 or (abs(value) >= 0.1 and math.isclose(value, round(value, 2), rel_tol=1e-6))
    if cents:
        return f"{value:,.2f}".removesuffix(".00") + " USD"
    return f"{value:.3f} USD" if abs(value) >= 0.0995 else f"{_figures(value)} USD"


def format_count(value: float) -> str:
    """1310 as "1,310", 12,200 as "12.2k", 1.5e6 as "1.5M", 7e9 as "7B"."""
    if math.isfinite(value) and abs(value) < 9999.5:
        return f"{value:,.0f}" if abs(value) >= 100 else _figures(value)
    return _scaled(value, "", ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")), glue="")


def format_percent(value: float) -> str:
    """0.7 as "70%", 0.074 as "7.4%", 0.0032 as "0.32%"."""
    if not math.isfinite(value):
        return _scaled(value, "", ())
    percent = value * 100
    return f"{_figures(float(f'{percent:.2g}') if abs(percent) < 10 else round(percent, 1))}%"
