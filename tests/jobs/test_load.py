"""Requests as they are drawn: rates, spread, lengths and their ties, and that one change leaves the rest alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from sim.adapters.lookup import Library
from sim.adapters.resolve import resolve_file
from sim.jobs.play import play
from sim.jobs.serving.load import draw_load
from sim.spec.workload import Load

ROOT = Path(__file__).parents[2]
N = 40_000
FIXED = {"prompt_tokens": 10, "output_tokens": 5}
NAMED = ["azure-2023-conversation", "azure-2023-code", "mooncake-conversation"]


def draw(n=N, seed=1, lengths=None, **keys):
    """The requests of a load written as its keys."""
    own = {"lengths": lengths} if lengths else {k: v for k, v in FIXED.items() if k not in keys}
    joint = Library().lengths(lengths) if lengths else None
    return draw_load(Load(requests=n, **own, **keys), None, joint, 10**6, np.random.SeedSequence(seed))


def gaps(drawn):
    return np.diff(drawn.arrival, prepend=0.0)


# ---- Arrivals. Standard errors: of a mean gap cv/sqrt(n) of itself, of a gamma's cv within 1.5 (1 + cv)/sqrt(n).


@pytest.mark.parametrize(
    ("kind", "cv"),
    [
        ({"poisson": {"rate": "4 req/s"}}, 1.0),
        ({"gamma": {"rate": "4 req/s", "cv": 1}}, 1.0),
        ({"gamma": {"rate": "4 req/s", "cv": 0.3}}, 0.3),
        ({"gamma": {"rate": "4 req/s", "cv": 3}}, 3.0),
        ({"diurnal": {"peak": "4 req/s", "valley": "4 req/s"}}, 1.0),
    ],
)
def test_random_arrivals_have_their_rate_and_spread(kind, cv):
    between = gaps(draw(**kind))
    assert (between >= 0).all()
    assert between.mean() == pytest.approx(1 / 4, rel=4 * cv / N**0.5)
    assert between.std() / between.mean() == pytest.approx(cv, abs=6 * cv * (1 + cv) / N**0.5)


def test_poisson_gaps_are_exponential():
    """A share e^-x of them is longer than x times the mean."""
    between = gaps(draw(poisson={"rate": "4 req/s"})) * 4
    for x in (0.1, 0.5, 1, 2, 4):
        share = np.exp(-x)
        assert (between > x).mean() == pytest.approx(share, abs=4 * (share * (1 - share) / N) ** 0.5)


def test_gaps_do_not_depend_on_the_one_before():
    between = gaps(draw(gamma={"rate": "4 req/s", "cv": 2}))
    assert abs(np.corrcoef(between[:-1], between[1:])[0, 1]) < 4 / N**0.5


def test_deterministic_arrivals_are_equally_far_apart():
    drawn = draw(1000, deterministic={"rate": "8 req/s"})
    assert drawn.arrival == [i / 8 for i in range(1, 1001)]


def test_all_at_once_is_at_zero():
    assert draw(50, all_at_once=True).arrival == [0.0] * 50


def test_clients_have_no_arrivals_beforehand():
    assert draw(50, closed_loop={"clients": 3}).arrival == []


@pytest.mark.parametrize("valley", ["0 req/s", "3 req/s"])
@pytest.mark.parametrize("peak_at", ["0 s", "250 s"])
def test_the_day_has_its_shape(valley, peak_at):
    """Arrivals in each eighth of the period against the law's mean rate in it, mean + swing cos."""
    law = {"peak": "9 req/s", "valley": valley, "period": "1000 s", "peak_at": peak_at}
    mean, swing = (9 + float(valley[0])) / 2, (9 - float(valley[0])) / 2
    arrival = np.array(draw(diurnal=law).arrival)
    periods = int(arrival[-1] // 1000)
    assert periods >= 5
    phase = arrival[arrival < periods * 1000] % 1000
    counts, edges = np.histogram(phase, bins=8, range=(0, 1000))
    turn, shift = 1000 / (2 * np.pi), float(peak_at.split()[0])
    until = mean * edges + swing * turn * np.sin((edges - shift) / turn)
    expected = np.diff(until) * periods
    assert expected.sum() == pytest.approx(mean * 1000 * periods)
    for count, wanted in zip(counts, expected, strict=True):
        assert count == pytest.approx(wanted, abs=4 * wanted**0.5)


@pytest.mark.parametrize(
    "law",
    [
        {"peak": "1000000 req/s", "valley": "0 req/s", "period": "1 year", "peak_at": "4380 h"},
        {"peak": "1 req/s", "valley": "0 req/s", "period": "1 us"},
        {"peak": "0.000001 req/s", "valley": "0 req/s", "period": "1 s"},
    ],
)
def test_an_odd_day_takes_no_longer(law):
    arrival = np.array(draw(1000, diurnal=law).arrival)
    assert np.isfinite(arrival).all()
    assert (np.diff(arrival) >= 0).all()
    assert arrival[0] > 0


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        ({"poisson": {"rate": "0 req/s"}}, "greater than 0"),
        ({"gamma": {"rate": "0 req/s", "cv": 1}}, "greater than 0"),
        ({"gamma": {"rate": "1 req/s", "cv": 0}}, "greater than 0"),
        ({"deterministic": {"rate": "0 req/s"}}, "greater than 0"),
        ({"diurnal": {"peak": "0 req/s", "valley": "0 req/s"}}, "greater than 0"),
        ({"diurnal": {"peak": "1 req/s", "valley": "0 req/s", "period": "0 s"}}, "greater than 0"),
        ({"diurnal": {"peak": "1 req/s", "valley": "2 req/s"}}, "valley rate is above the peak"),
        ({"poisson": {"rate": float("nan")}}, "not a rate"),
        ({"poisson": {"rate": float("inf")}}, "not a rate"),
        ({"closed_loop": {"clients": 0}}, "greater than or equal to 1"),
    ],
)
def test_rates_that_are_none_are_refused(kind, refused):
    with pytest.raises(ValueError, match=refused):
        Load(requests=5, **FIXED, **kind)


# ---- Lengths


def ranks(values):
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    upto = np.cumsum(counts)
    return ((upto - counts + upto + 1) / 2)[inverse]


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("which", ["prompt", "output"])
def test_drawn_lengths_have_the_quantiles_of_the_table(name, which):
    drawn = np.array(getattr(draw(lengths=name, all_at_once=True), which))
    table = getattr(Library().lengths(name), which).values
    assert drawn.min() >= 1
    assert drawn.max() <= table[-1]
    for tenth in range(1, 10):
        share, value = tenth / 10, table[(len(table) - 1) * tenth // 10]
        error = 4 * (share * (1 - share) / N) ** 0.5 + 0.001  # a step of the table
        assert (drawn < value).mean() <= share + error
        assert (drawn <= value).mean() >= share - error


@pytest.mark.parametrize("name", NAMED)
def test_prompt_and_answer_stay_tied_as_in_the_trace(name):
    """Spearman's rank correlation; ties among whole numbers cost it a hundredth at most."""
    drawn = draw(lengths=name, all_at_once=True)
    found = np.corrcoef(ranks(drawn.prompt), ranks(drawn.output))[0, 1]
    assert found == pytest.approx(Library().lengths(name).spearman, abs=4 / N**0.5 + 0.01)


def test_separate_lengths_are_not_tied():
    law = {"lognormal": {"median": 300, "p90": 900}}
    drawn = draw(prompt_tokens=law, output_tokens=law, all_at_once=True)
    assert abs(np.corrcoef(ranks(drawn.prompt), ranks(drawn.output))[0, 1]) < 4 / N**0.5


def test_lognormal_lengths_have_their_percentiles():
    drawn = np.array(draw(prompt_tokens={"lognormal": {"median": 400, "p90": 1500}}, all_at_once=True).prompt)
    for share, value in ((0.5, 400), (0.9, 1500)):
        assert (drawn <= value).mean() == pytest.approx(share, abs=4 * (share * (1 - share) / N) ** 0.5 + 0.002)
    # symmetric in the logarithm: the 10th percentile lies as far below the median as the 90th above
    assert np.quantile(drawn, 0.1) == pytest.approx(400 * 400 / 1500, rel=0.05)


def test_lognormal_lengths_are_clipped():
    law = {"lognormal": {"median": 400, "p90": 1500, "min": 100, "max": 2000}}
    drawn = np.array(draw(prompt_tokens=law, all_at_once=True).prompt)
    assert (drawn.min(), drawn.max()) == (100, 2000)


def test_exponential_lengths_forget_how_long_they_are():
    """Mean m, variance m^2 - m, and of those over a as large a part is over a + b as of all over b."""
    m = 200
    drawn = np.array(draw(output_tokens={"exponential": {"mean": m}}, prompt_tokens=1, all_at_once=True).output)
    assert drawn.min() == 1
    assert drawn.mean() == pytest.approx(m, abs=4 * m / N**0.5)
    assert drawn.var() == pytest.approx(m * m - m, rel=4 * (8 / N) ** 0.5)
    over = drawn[drawn > 150]
    assert (over > 250).mean() == pytest.approx((drawn > 100).mean(), abs=4 * 0.5 / len(over) ** 0.5)


def test_exponential_lengths_have_a_floor_and_a_ceiling():
    short = draw(output_tokens={"exponential": {"mean": 1}}, prompt_tokens=1, all_at_once=True).output
    assert set(short) == {1}
    law = {"exponential": {"mean": 200, "max": 300}}
    assert max(draw(output_tokens=law, prompt_tokens=1, all_at_once=True).output) == 300


def test_a_table_of_ones_own():
    drawn = np.array(draw(prompt_tokens={"empirical": {"values": [10, 20, 100]}}, all_at_once=True).prompt)
    assert (drawn.min(), drawn.max()) == (10, 100)
    assert (drawn <= 20).mean() == pytest.approx(0.5, abs=0.02)
    assert (drawn <= 60).mean() == pytest.approx(0.75, abs=0.02)


# ---- One change leaves the rest alone

MIXED = {"prompt_tokens": {"lognormal": {"median": 300, "p90": 900}}, "output_tokens": 7}


def test_a_seed_decides_everything():
    one, again, other = (draw(500, seed, poisson={"rate": "1 req/s"}, **MIXED) for seed in (1, 1, 2))
    assert one == again
    assert one.prompt != other.prompt
    assert one.arrival != other.arrival


def test_the_rate_leaves_lengths_alone_and_stretches_time():
    slow, fast = (draw(500, poisson={"rate": f"{rate} req/s"}, **MIXED) for rate in (1, 4))
    assert slow.prompt == fast.prompt
    assert slow.arrival == pytest.approx([4 * t for t in fast.arrival])


@pytest.mark.parametrize(
    "kind",
    [
        {"gamma": {"rate": "1 req/s", "cv": 2}},
        {"deterministic": {"rate": "1 req/s"}},
        {"diurnal": {"peak": "1 req/s", "valley": "0 req/s"}},
        {"all_at_once": True},
        {"closed_loop": {"clients": 3}},
    ],
)
def test_the_kind_of_arrivals_leaves_lengths_alone(kind):
    assert draw(500, **kind, **MIXED).prompt == draw(500, poisson={"rate": "1 req/s"}, **MIXED).prompt


def test_lengths_leave_arrivals_alone():
    rate = {"poisson": {"rate": "1 req/s"}}
    assert draw(500, **rate).arrival == draw(500, lengths=NAMED[0], **rate).arrival


def test_the_law_of_answers_leaves_prompts_alone():
    prompt = {"lognormal": {"median": 300, "p90": 900}}
    answers = (7, {"lognormal": {"median": 3, "p90": 9}})
    one, other = (draw(500, prompt_tokens=prompt, output_tokens=x, all_at_once=True) for x in answers)
    assert one.prompt == other.prompt


@pytest.mark.parametrize(
    "kind",
    [
        {"poisson": {"rate": "1 req/s"}},
        {"gamma": {"rate": "1 req/s", "cv": 3}},
        {"diurnal": {"peak": "1 req/s", "valley": "0 req/s", "period": "1 h"}},
    ],
)
def test_a_longer_run_begins_with_the_same_requests(kind):
    short, long = (draw(n, **kind, **MIXED) for n in (200, 1000))
    assert long.prompt[:200] == short.prompt
    assert long.arrival[:200] == pytest.approx(short.arrival)


# ---- Traces


@pytest.fixture
def replay(tmp_path):
    """Plays a trace file of (seconds, prompt, output) rows on the H100 server and gives the job's requests."""

    def run(rows, **trace):
        file = tmp_path / "trace.jsonl"
        names = ("timestamp", "input_length", "output_length")
        lines = [json.dumps(dict(zip(names, (1000 * t, p, o), strict=True))) for t, p, o in rows]
        file.write_text("\n".join(lines))
        load = json.dumps({"trace": {"file": str(file), **trace}})
        resolved = resolve_file(ROOT / "scenarios" / "h100_tp8.yaml", [f"jobs.0.load={load}"])
        (job,) = play(resolved).jobs
        return job

    return run


ROWS = [(10, 100, 4), (11, 200, 5), (14, 300, 6)]


def test_a_trace_is_replayed_as_recorded(replay):
    job = replay(ROWS)
    assert job.table.arrival == [0, 1, 4]
    assert (job.table.prompt, job.table.output) == ([100, 200, 300], [4, 5, 6])
    assert all(end > start for start, end in zip(job.table.arrival, job.table.finish, strict=True))


def test_time_scale_stretches_a_trace(replay):
    assert replay(ROWS, time_scale=2).table.arrival == [0, 2, 8]
    assert replay(ROWS, time_scale=0.5).table.arrival == [0, 0.5, 2]


def test_limit_takes_the_first(replay):
    assert replay(ROWS, limit=2).table.prompt == [100, 200]


LONG = [(0, 5000, 100), (1, 100, 10), (2, 10, 5000), (3, 4000, 96)]  # the model reads 4,096 tokens


def test_requests_too_long_are_rejected_and_counted(replay):
    job = replay(LONG)
    assert job.too_long == 2
    assert sorted(job.table.rejected) == [0, 2]
    assert [finish == finish for finish in job.table.finish] == [False, True, False, True]


def test_prompts_too_long_are_cut_where_asked_for(replay):
    job = replay(LONG, too_long="truncate")
    assert job.table.prompt == [3996, 100, 1, 4000]
    assert job.table.output == [100, 10, 5000, 96]
    assert (job.too_long, job.table.rejected) == (1, [2])  # no prompt is short enough for that answer
