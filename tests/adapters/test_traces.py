"""Request traces: four formats to the same three columns, hostile files refused with their line."""

import gzip
import itertools
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from sim.adapters import traces
from sim.adapters.traces import RequestTrace, read_trace
from sim.errors import InputError

SHARED = Path(__file__).parents[3] / "shared" / "data" / "traces"

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 23:59:59.9000000,374,44
2023-11-17 00:00:01.9000001,396,109
"""
MOONCAKE = """{"timestamp": 1000, "input_length": 374, "output_length": 44, "hash_ids": [7]}
{"timestamp": 3000.0001, "input_length": 396, "output_length": 109, "hash_ids": []}
"""
BURSTGPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,374,44,418,Conversation log
6,GPT-4,10,0,10,Conversation log
7.0000001,GPT-4,396,109,505,API log
"""
VIDUR = """arrived_at,num_prefill_tokens,num_decode_tokens
0.0,374,44
2.0000001,396.0,109
"""
SAMPLES = {"azure": AZURE, "mooncake": MOONCAKE, "burstgpt": BURSTGPT, "vidur": VIDUR}


@pytest.fixture
def write(tmp_path):
    def writer(content, name="trace.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return writer


def problems(*args, **kwargs):
    """The lines of the InputError that reading raises, without the folder."""
    with pytest.raises(InputError) as caught:
        read_trace(*args, **kwargs)
    folder = f"{Path(args[0]).parent}{os.sep}"
    return [line.replace(folder, "") for line in str(caught.value).splitlines()]


def of(arrival, prompt=None, output=None):
    ones = [1] * len(arrival)
    return RequestTrace(np.array(arrival, float), np.array(prompt or ones), np.array(output or ones), 0, "test")


@pytest.mark.parametrize("format", SAMPLES)
@pytest.mark.parametrize("auto", [True, False])
def test_all_formats_give_the_same_requests(write, format, auto):
    trace = read_trace(write(SAMPLES[format]), "auto" if auto else format)
    assert trace.arrival == pytest.approx([0, 2.0000001], abs=1e-10)
    assert trace.prompt.tolist() == [374, 396]
    assert trace.output.tolist() == [44, 109]
    assert (trace.arrival.dtype, trace.prompt.dtype, trace.output.dtype) == (np.float64, np.int64, np.int64)
    assert trace.skipped == (format == "burstgpt")
    assert trace.source == f"trace.csv ({format})"


def test_columns_in_any_order_and_others_ignored(write):
    text = '\ufeff\n"note", contexttokens ,GENERATEDTOKENS,Timestamp\n"a, b",5,7,2024-05-10T00:00:00.5+00:00\n'
    trace = read_trace(write(text))
    assert (trace.prompt.tolist(), trace.output.tolist()) == ([5], [7])


@pytest.mark.parametrize(
    ("first", "second", "apart"),
    [
        ("2023-11-16 18:15:46.6805900", "2023-11-16 18:15:46.6805901", 1e-7),
        ("2023-11-16 18:15:46", "2023-11-16T18:15:47Z", 1),
        ("2024-02-28 23:59:59", "2024-03-01 00:00:00", 86401),
        ("2024-05-10 02:00:00+02:00", "2024-05-10 00:00:00.25Z", 0.25),
        ("2024-05-09 19:30:00-0430", "2024-05-10 00:00:01+00:00", 1),
    ],
)
def test_timestamps(write, first, second, apart):
    text = f"TIMESTAMP,ContextTokens,GeneratedTokens\n{first},1,1\n{second},1,1\n"
    assert read_trace(write(text)).arrival[1] == pytest.approx(apart, abs=1e-10)


def test_sorted_stably_and_shifted_to_zero(write):
    rows = "\n".join(f"{t},{i},1" for i, t in enumerate([9, 4, 9, 4], 1))
    trace = read_trace(write(f"arrived_at,num_prefill_tokens,num_decode_tokens\n{rows}"))
    assert trace.arrival.tolist() == [0, 0, 5, 5]
    assert trace.prompt.tolist() == [2, 4, 1, 3]


def test_time_scale_two_halves_the_rate(write):
    path = write(VIDUR)
    assert read_trace(path, time_scale=2).arrival[1] == 2 * read_trace(path).arrival[1]


def test_limit_reads_no_further(write):
    assert len(read_trace(write(AZURE + "broken\n"), limit=2).arrival) == 2
    assert len(read_trace(write(BURSTGPT), limit=2).arrival) == 1  # the second is skipped
    assert len(read_trace(write(MOONCAKE + "{", "m.jsonl"), limit=2).arrival) == 2


def test_requests_without_tokens_are_skipped_and_counted(write):
    trace = read_trace(write(VIDUR + "3,7,0\n4,0,7\n"))
    assert (len(trace.arrival), trace.skipped) == (2, 2)
    assert problems(write("arrived_at,num_prefill_tokens,num_decode_tokens\n1,1,0\n")) == [
        "trace.csv: the trace has no request: all 1 rows are of 0 tokens"
    ]


def test_line_ends_and_blank_lines(write):
    assert len(read_trace(write(AZURE.replace("\n", "\r\n\r\n"))).arrival) == 2
    assert len(read_trace(write("\n\n" + MOONCAKE.replace("\n", "\r\n\n"))).arrival) == 2


# ---- first, cycled


def test_first():
    trace = of([0, 1, 3], [5, 6, 7], [8, 9, 10])
    assert trace.first(2).arrival.tolist() == [0, 1]
    assert (trace.first(2).prompt.tolist(), trace.first(2).output.tolist()) == ([5, 6], [8, 9])
    assert trace.first(9).arrival.tolist() == [0, 1, 3]


def test_cycled_goes_on_by_the_span():
    trace = of([0, 1, 3], [5, 6, 7], [8, 9, 10])
    cycled = trace.cycled(7)
    assert cycled.arrival.tolist() == [0, 1, 3, 3, 4, 6, 6]
    assert cycled.prompt.tolist() == [5, 6, 7, 5, 6, 7, 5]
    assert cycled.output.tolist() == [8, 9, 10, 8, 9, 10, 8]
    assert cycled.source == trace.source
    assert trace.cycled(2).arrival.tolist() == [0, 1]
    assert of([0]).cycled(3).arrival.tolist() == [0, 0, 0]


def test_a_trace_cannot_be_changed_and_can_be_sent(write):
    trace = read_trace(write(AZURE))
    with pytest.raises(ValueError, match="read-only"):
        trace.arrival[0] = 1
    sent = pickle.loads(pickle.dumps(trace))
    assert np.array_equal(sent.arrival, trace.arrival)


# ---- What is refused


def test_every_bad_value_is_named_with_its_line(write):
    text = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.68,-1,x
yesterday,5,1.5
2023-13-16 18:15:46,nan,
2023-11-16 25:15:46,1_0,1e12
2023-11-16 18:15:46,5
"""
    assert problems(write(text)) == [
        "trace.csv:2: ContextTokens: must not be negative: -1",
        "trace.csv:2: GeneratedTokens: must be a number, not 'x'",
        "trace.csv:3: TIMESTAMP: must be a time such as 2023-11-16 18:15:46.68, not 'yesterday'",
        "trace.csv:3: GeneratedTokens: must be a whole number, not 1.5",
        "trace.csv:4: TIMESTAMP: must be a time such as 2023-11-16 18:15:46.68, not '2023-13-16'",
        "trace.csv:4: ContextTokens: must be a number, not 'nan'",
        "trace.csv:4: GeneratedTokens: must be a number, not empty",
        "trace.csv:5: TIMESTAMP: there is no such time: '2023-11-16 25:15:46'",
        "trace.csv:5: ContextTokens: must be a number, not '1_0'",
        "trace.csv:5: GeneratedTokens: must be at most 1,000,000,000 tokens, not 1e+12",
        "trace.csv:6: GeneratedTokens: is missing",
    ]


def row(**written):
    """A line of JSON with these values as written."""
    values = {"timestamp": "1", "input_length": "1", "output_length": "1"} | written
    return "{" + ", ".join(f'"{key}": {value}' for key, value in values.items()) + "}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (row(timestamp="-1"), "timestamp: must be between 0 and 1e+11 s, not -0.001"),
        (row(timestamp="true"), "timestamp: must be a number, not 'True'"),
        (row(input_length="NaN"), "input_length: must be a finite number of sensible size"),
        (row(input_length=str(10**400)), "input_length: must be a finite number of sensible size"),
        (row(input_length="[1]"), "input_length: must be a number, not '[1]'"),
        ('{"timestamp": 1, "input_length": 1}', "output_length: is missing"),
        ('{"timestamp" 1}', "not valid JSON: Expecting ':' delimiter at column 14"),
        ("[1, 2]", "must be a JSON object with timestamp, input_length, output_length"),
        (f'{{"timestamp": {"9" * 5000}}}', "not valid JSON: a number too long, or nested too deep"),
        ("[" * 100_000, "not valid JSON: a number too long, or nested too deep"),
    ],
)  # fmt: skip
def test_bad_json_rows(write, line, message):
    assert problems(write(MOONCAKE + line + "\n")) == [f"trace.csv:3: {message}"]


def test_at_most_twenty_problems(write):
    assert len(problems(write(AZURE + "x,y,z\n" * 100))) == 20


def test_control_characters_are_not_printed(write):
    text = "\n".join(problems(write("\x1b[31mtime,tokens\n1,2\n")) + problems(write(AZURE + "\x1b[2J,1,1\n")))
    assert "\x1b" not in text


def test_a_header_that_lacks_a_column(write):
    text = "TIMESTAMP,ContextToken,GeneratedTokens,GeneratedTokens\n"
    assert problems(write(text), "azure") == [
        "trace.csv:1: ContextTokens: no such column; the nearest is 'ContextToken'",
        "trace.csv:1: GeneratedTokens: the column is given twice",
    ]
    (line,) = problems(write("a,b,c\n1,2,3\n"))
    assert line.startswith("trace.csv:1: the first line 'a,b,c' is of no trace format that is known (azure: TIMESTAMP,")


def test_files_that_are_no_trace(write, tmp_path):
    assert problems(write("")) == ["trace.csv: the trace file is empty"]
    assert problems(write("\n \n")) == ["trace.csv: the trace file is empty"]
    assert problems(write(AZURE.splitlines()[0])) == ["trace.csv: the trace has no request"]
    assert problems(tmp_path / "trase.csv") == ["trase.csv: no such trace file, did you mean 'trace.csv'?"]
    assert problems(tmp_path / "none" / "trace.csv") == ["trace.csv: no such trace file"]
    assert problems(tmp_path)[0].endswith("is a folder, not a trace file")
    assert problems(Path(os.devnull))[0].endswith("is a device or pipe, not a trace file")
    assert problems(write(AZURE.encode() + b"\0\1\2")) == ["trace.csv:4: is not text: it has a NUL byte"]
    assert problems(write(AZURE.encode("utf-16")))[0].startswith("trace.csv:1: is not")
    assert problems(write(b"\xff\xd8\xff\xe0")) == ["trace.csv:1: is not UTF-8 text (byte 0xff)"]
    assert problems(write(gzip.compress(AZURE.encode()))) == ["trace.csv: is a compressed file: unpack it first"]
    assert problems(write(AZURE + '"' + "x" * 200_000))[0].startswith("trace.csv:4: not valid CSV")
    assert problems(write(AZURE + "x" * 1_000_001)) == ["trace.csv:4: a line of more than 1,000,000 bytes"]
    assert problems(Path("a\0b"))[0]


def test_a_file_too_large_is_not_read(tmp_path):
    path = tmp_path / "trace.csv"
    with open(path, "wb") as handle:
        handle.truncate(500_000_001)
    assert problems(path) == ["trace.csv: larger than 500 MB: cut the trace into parts"]


def test_too_many_rows_ask_for_a_limit(write, monkeypatch):
    monkeypatch.setattr(traces, "MAX_ROWS", 1)
    assert problems(write(VIDUR)) == ["trace.csv: more than 1 rows: set a limit"]
    assert len(read_trace(write(VIDUR), limit=1).arrival) == 1


def test_arguments(write):
    path = write(AZURE)
    assert problems(path, "azur") == ["trace.csv: unknown trace format 'azur', did you mean 'azure'?"]
    assert problems(path, limit=0) == ["trace.csv: limit must be at least 1, not 0"]
    for scale in (0, -1, float("nan"), float("inf")):
        assert len(problems(path, time_scale=scale)) == 1


@pytest.mark.parametrize("format", SAMPLES)
def test_a_file_cut_or_bent_anywhere_never_gives_a_traceback(write, format):
    raw = SAMPLES[format].encode()
    bent = [raw[:i] for i in range(len(raw))]
    bent += [raw[:i] + bytes([b]) + raw[i + 1 :] for i, b in itertools.product(range(0, len(raw), 3), b'"\0,-\xff')]
    for content in bent:
        try:
            trace = read_trace(write(content))
        except InputError:
            continue
        assert len(trace.arrival) == len(trace.prompt) == len(trace.output) > 0


# ---- The real ones


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public traces are not beside this checkout")
@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("azure_llm_2023_conv.csv", 19_366),
        ("azure_llm_2023_code.csv", 8_819),
        ("mooncake_conversation.jsonl", 12_031),
    ],
)
def test_public_traces(name, rows):
    trace = read_trace(SHARED / name)
    assert len(trace.arrival) + trace.skipped == rows
    assert trace.arrival[0] == 0
    assert (np.diff(trace.arrival) >= 0).all()
    assert 3400 < trace.arrival[-1] < 3600  # about an hour each
    assert trace.prompt.min() >= 1
    assert trace.output.min() >= 1
    with open(SHARED / name) as handle:
        last = list(handle)[-1]
    tokens = json.loads(last) if name.endswith("jsonl") else dict(zip(("t", "p", "o"), last.split(","), strict=True))
    assert trace.output[-1] == int(tokens.get("output_length") or tokens["o"])
