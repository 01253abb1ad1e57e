"""Parameter servers against their closed forms: N workers, S servers, Phi bytes of gradients, cards of B bytes/s.

Toy cards on one switch, full duplex; nothing but kernels and cards takes time, so c seconds of kernels and
k = 2 N Phi / (S B) of exchange are all there is.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from sim.errors import InfeasibleError
from sim.jobs.training.parameter_server import Rounds, Worker
from sim.jobs.training.run import TrainingRecording
from sim.results.schema import TrainingMetrics
from sim.results.training import training_metrics
from sim.run import run_recorded
from sim.spec.scenario import Assume

from ...helpers import only, resolved
from .helpers import desktops, played, servers, toy, training

TOKENS = 1000
#: 16 layers of 12 h^2 weights, and a vocabulary of one token.
WEIGHTS = 16 * 12 * 1024 * 1024 + 1024
PHI = 2.0 * WEIGHTS
#: 2 FLOP a weight and token forward, 4 backward, at 100 TFLOPS.
KERNELS = 6 * WEIGHTS * TOKENS / 100e12
EXACT = 1e-9
UNBOUNDED = "unbounded"


def described(
    n: int, owners: int = 1, staleness: Any = 0, bandwidth: float = 1e9, slow: float = 1.0, **more: Any
) -> dict[str, Any]:
    plan = {"dp": n, "parameter_server": {"servers": owners, "staleness": staleness}}
    if slow != 1.0:
        more["slow"] = [{"gpu": 1, "factor": slow}]
    return toy(plan, (n, 1, TOKENS), gpus=n + owners, link={"bandwidth": f"{bandwidth} B/s"}, **more)


def job(*args: Any, **more: Any) -> TrainingRecording:
    (found,) = played(described(*args, **more)).training
    return found


def rounds(*args: Any, **more: Any) -> Rounds:
    found = job(*args, **more).rounds
    assert found is not None
    return found


def metrics(recording: TrainingRecording) -> TrainingMetrics:
    return training_metrics(recording, Assume(attention="free"))


def balanced(n: int, ratio: float) -> float:
    """The cards' rate at which k = ratio * c with one server."""
    return 2 * n * PHI / (ratio * KERNELS)


def moved(recording: TrainingRecording) -> float:
    """Model sizes that leave a card in a step, all GPUs together."""
    return sum(channel.bytes for channel in recording.channels) / recording.steps / PHI


# ---- synchronous


@pytest.mark.parametrize("n", [1, 2, 8, 32])
def test_push_and_pull_take_n_model_sizes_through_one_card(n: int) -> None:
    """A1, DPZ-01: 2 N Phi / B beside c, and 2 N model sizes through the server."""
    recording = job(n, bandwidth=1e9)
    m = metrics(recording)
    assert m.exposed_communication_s == {"dp": pytest.approx(2 * n * PHI / 1e9, rel=EXACT)}
    assert m.step_time_s == pytest.approx(KERNELS + 2 * n * PHI / 1e9, rel=1e-5)
    assert moved(recording) == pytest.approx(2 * n, rel=EXACT)
    assert (m.staleness_mean, m.staleness_max) == (0.0, 0)


def test_pushes_are_through_before_pulls_begin() -> None:
    n, bandwidth = 8, 1e9
    r = rounds(n, bandwidth=bandwidth)
    kernels = r.workers[0].kernels.total
    for worker in r.workers:
        for step, (begin, after) in enumerate(pairwise(worker.begins), 1):
            applied = r.servers[0].applied_at[worker.number][step]
            assert applied - begin == pytest.approx(kernels + n * PHI / bandwidth, rel=EXACT)
            assert after - applied == pytest.approx(n * PHI / bandwidth, rel=EXACT)


@pytest.mark.parametrize("n", [2, 8, 64])
def test_a_ring_is_faster_by_n_squared_over_n_less_one(n: int) -> None:
    """A1, A6, DPZ-09: N^2/(N-1) times as long, 9.14 at N = 8, for (N-1)/N less of bytes."""
    server = job(n)
    (ring,) = played(toy({"dp": n, "overlap": False}, (n, 1, TOKENS), gpus=n, link={"bandwidth": "1 GB/s"})).training
    ratio = metrics(server).exposed_communication_s["dp"] / metrics(ring).exposed_communication_s["dp"]
    assert ratio == pytest.approx(n**2 / (n - 1), rel=EXACT)
    all_sent = metrics(ring).sent_bytes_per_gpu["dp"] * n
    assert all_sent / (moved(server) * PHI) == pytest.approx((n - 1) / n, rel=EXACT)
    assert metrics(server).sent_bytes_per_gpu["dp"] * (n + 1) == pytest.approx(2 * n * PHI, rel=EXACT)


def test_ten_times_more_gradients_than_the_card_carries_leave_workers_idle() -> None:
    """A2, DPZ-02: 1000 G of demand a second into 100 G/s, so N Phi = 10 B c: idle 20/21, of pushes alone 10/11."""
    n = 10
    recording = job(n, bandwidth=n * PHI / KERNELS / 10)
    ((*_, seconds, _),) = recording.members
    idle = seconds.communication["dp", "infiniband"] / recording.step.seconds
    assert idle > 0.85
    assert idle == pytest.approx(20 / 21, rel=1e-5)


@pytest.mark.parametrize("owners", [1, 2, 4, 8])
def test_several_owners_share_the_load(owners: int) -> None:
    """A3, DPZ-10: communication falls as 1/s, 2 N/s model sizes through each."""
    n = 8
    recording = job(n, owners)
    assert metrics(recording).exposed_communication_s["dp"] == pytest.approx(2 * n * PHI / 1e9 / owners, rel=EXACT)
    assert moved(recording) / owners == pytest.approx(2 * n / owners, rel=EXACT)
    ((_, _, track),) = recording.servers
    assert track.count == owners


def test_more_owners_than_workers_do_not_help() -> None:
    assert metrics(job(2, 4)).exposed_communication_s["dp"] == pytest.approx(2 * PHI / 1e9, rel=EXACT)


@pytest.mark.parametrize("slow", [3.0, 30.0])
def test_a_round_waits_for_its_slowest_worker(slow: float) -> None:
    """The others have pushed by then: f c + Phi/B + N Phi/B."""
    n, bandwidth = 8, balanced(8, 0.5)
    recording = job(n, bandwidth=bandwidth, slow=slow)
    expected = slow * KERNELS + (n + 1) * PHI / bandwidth
    assert recording.step.seconds == pytest.approx(expected, rel=1e-5)
    waiting = {one.dp: seconds.slow for one, _, _, seconds, _ in recording.members}
    assert waiting[1] == 0.0
    assert waiting[0] == pytest.approx((slow - 1) * KERNELS + (1 - (n - 1)) * PHI / bandwidth, rel=1e-5)


# ---- stale


@pytest.mark.parametrize("staleness", [1, 2, 5, UNBOUNDED])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0, 2.0, 4.0])
def test_asynchrony_fills_communication_with_kernels(ratio: float, staleness: Any) -> None:
    """DPZ-05: (c + k) / max(c, k), twice at most, and where they are equal."""
    n = 8
    synchronous, stale = (rounds(n, staleness=s, bandwidth=balanced(n, ratio)) for s in (0, staleness))
    gain = synchronous.seconds / stale.seconds
    assert gain == pytest.approx((1 + ratio) / max(1, ratio), rel=1e-5)
    assert gain <= 2 * (1 + EXACT)
    assert stale.staleness_max == 1


def through(r: Rounds, step: int, *, but: Worker | None = None) -> float:
    """When the last gradient of an iteration was applied everywhere; one that was not is never."""
    if step < 1:
        return 0.0
    return max(
        server.applied_at[w.number].get(step, float("inf")) for server in r.servers for w in r.workers if w is not but
    )  # fmt: skip


@pytest.mark.parametrize("slow", [1.0, 1.3, 2.5])
@pytest.mark.parametrize("staleness", [0, 1, 2, 4])
def test_a_step_begins_when_older_gradients_are_applied(staleness: int, slow: float) -> None:
    """A4, DPZ-03, DPZ-04: with staleness 1 iteration 3 needs 0 and 1, not 2; iteration 12 all up to 10."""
    r = rounds(4, 2, staleness=staleness, bandwidth=balanced(4, 1.0), slow=slow)
    missing = 0
    for worker in r.workers:
        assert worker.first == 1
        for step, begin in enumerate(worker.begins, 1):
            assert begin >= through(r, step - 1 - staleness) * (1 - EXACT)
            missing += begin < through(r, step - staleness) * (1 - EXACT)
    assert r.staleness_max <= staleness
    if staleness <= 1 or slow > 1.0:
        assert missing
        assert r.staleness_max == staleness


def test_a_slow_worker_holds_up_those_with_a_bound_and_not_the_others() -> None:
    """c + k grows by (f-1) c, bounded runs at f c, unbounded at N / (N - 1 + 1/f) steps' time."""
    n, slow, bandwidth = 8, 2.0, balanced(8, 0.25)
    times = {s: rounds(n, staleness=s, bandwidth=bandwidth, slow=slow).seconds for s in (0, 1, 4, 1000, UNBOUNDED)}
    assert times[0] > slow * KERNELS
    for bounded in (1, 4, 1000):
        assert times[bounded] == pytest.approx(slow * KERNELS, rel=1e-5)
    assert times[UNBOUNDED] == pytest.approx(KERNELS * n / (n - 1 + 1 / slow), rel=1e-5)
    assert times[UNBOUNDED] < times[1000] <= times[1] < times[0]


@pytest.mark.parametrize("slow", [1.0, 1.01, 1.5, 7.0])
@pytest.mark.parametrize("ratio", [0.2, 1.0, 5.0])
def test_less_waiting_is_never_slower(ratio: float, slow: float) -> None:
    found = [rounds(6, staleness=s, bandwidth=balanced(6, ratio), slow=slow).seconds for s in (0, 1, 3, 10, UNBOUNDED)]
    for stricter, looser in pairwise(found):
        assert looser <= stricter * (1 + 1e-6)


def test_a_bound_far_away_is_reached() -> None:
    """A lead of 1% takes 10,000 steps to use up a bound of 100: the run is told as it ends, at the slow one's pace."""
    r = rounds(8, staleness=100, bandwidth=balanced(8, 0.5), slow=1.01)
    assert r.steady
    assert r.staleness_max == 100
    assert r.seconds == pytest.approx(1.01 * KERNELS, rel=1e-5)


# ---- updates, memory


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("owners", [1, 4])
def test_servers_update_their_slices(owners: int, staleness: int) -> None:
    """Adam in mixed precision moves 2 * 12 + 3 * 2 + 2 B a parameter at 1 TB/s: once a round, or once a gradient."""
    n, each = 8, 32 * WEIGHTS / owners / 1e12
    recording = job(n, owners, staleness=staleness, stack={"activations": "through_memory"})
    times = n if staleness else 1
    assert metrics(recording).optimizer_s == pytest.approx(times * each, rel=1e-6)
    ((_, seconds, _),) = recording.servers
    assert seconds.memory == pytest.approx(times * each, rel=1e-6)
    assert seconds.bytes == pytest.approx(times * 32 * WEIGHTS / owners, rel=1e-6)
    if not staleness:
        ((*_, worker, _),) = recording.members
        assert worker.communication["dp", "infiniband"] == pytest.approx(2 * n * PHI / owners / 1e9 + each, rel=1e-6)


def test_servers_keep_the_optimizer_and_workers_do_not() -> None:
    n, owners = 4, 2
    synchronous, stale = (job(n, owners, staleness=s).layout.stages for s in (0, 1))
    (worker, server), (late, _) = (
        [next(iter(stage.memory.values())).parts for stage in stages] for stages in (synchronous, stale)
    )
    assert worker["optimizer"] == 0.0
    assert server["optimizer"] == pytest.approx(12 * WEIGHTS / owners)
    assert server["parameters"] == server["gradients"] == pytest.approx(2 * WEIGHTS / owners)
    assert server["activations"] == 0.0
    extra = late["communication buffers"] - worker["communication buffers"]
    assert extra == pytest.approx(4 * WEIGHTS)  # gradients that leave and weights that come beside the kernels


def test_a_slice_that_does_not_fit_is_refused() -> None:
    """16 layers of 68 h^2 weights: workers have room for 4 B of each, one server has none for 16."""
    more = {"model": {"intermediate": 32768}}
    refused = described(2, **more)
    del refused["assume"]["memory"]
    with pytest.raises(InfeasibleError, match=r"a parameter server needs 18.* of 10 GB .*servers: 2 would fit"):
        played(refused)
    fits = described(2, 2, **more)
    del fits["assume"]["memory"]
    assert played(fits).training[0].layout.fullest.fits


def test_offloading_the_optimizer_is_refused() -> None:
    refused = described(2)
    refused["jobs"][0]["plan"]["offload"] = {"optimizer": "host"}
    with pytest.raises(InfeasibleError, match="only activations goes with them"):
        played(refused)


# ---- conservation, determinism

H100 = servers("h100-sxm", 2, "nvlink4", "infiniband-ndr")
TINY = {"model": "tinyllama-1.1b", "stack": "generic"}


def near(staleness: Any, n: int = 13, owners: int = 1, **more: Any) -> dict[str, Any]:
    """Servers share a node with some of the workers."""
    plan = {"dp": n, "parameter_server": {"servers": owners, "staleness": staleness}, "recompute": "full"}
    return training(H100, plan, (4 * n, 1, 1024), **TINY, **more)


CASES: dict[str, dict[str, Any]] = {
    "synchronous": described(8),
    "stale": described(8, staleness=1, bandwidth=balanced(8, 1.0)),
    "slow": described(8, 2, slow=1.7),
    "slow and stale": described(8, 2, staleness=2, bandwidth=balanced(8, 1.0), slow=1.7),
    "slow and unbounded": described(8, 2, staleness=UNBOUNDED, bandwidth=balanced(8, 1.0), slow=1.7),
    "very slow and unbounded": described(8, 2, staleness=UNBOUNDED, bandwidth=balanced(8, 1.0), slow=1000.0),
    "near and far": near(0),
    "near, far and stale": near(2, run={"steps": 7}),
    "near, far and unbounded": near(UNBOUNDED, owners=3, run={"steps": 7}, data_loading="10 ms"),
    "mixed cards": training(
        desktops("rtx4090", "rtx3090", "rtx4090", "rtx3090"), {"dp": 3, "parameter_server": {"staleness": 1}},
        (6, 1, 1024), **TINY,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_gpu_second_is_in_one_bucket(name: str) -> None:
    outcome = run_recorded(resolved(CASES[name]), effects=False)
    result, recording = outcome.result, outcome.recording.training[0]
    assert sum(result.ledger.values()) == pytest.approx(result.gpus * result.simulated_s, rel=EXACT)
    for device in result.devices:
        assert sum(device.ledger.values()) == pytest.approx(device.count * result.simulated_s, rel=EXACT)
        assert min(device.ledger.values()) >= 0.0
    assert result.simulated_s == pytest.approx(recording.steps * only(result).metrics.step_time_s, rel=EXACT)


@pytest.mark.parametrize("name", CASES)
def test_every_byte_is_on_its_links(name: str) -> None:
    """The network's own counters agree with what the run says of each link a step, over the rounds played."""
    (recording,) = played(CASES[name]).training
    r = recording.rounds
    assert r is not None
    said: dict[int, float] = {}
    for channel in recording.channels:
        for link, weight in channel.links:
            said[link] = said.get(link, 0.0) + channel.bytes * weight / recording.steps
    assert sum(c.bytes for c in recording.channels) / recording.steps == pytest.approx(
        sum(w.rate for w in r.workers) * (r.push + r.pull) * len(r.servers), rel=EXACT
    )
    assert sum(w.rate for w in r.workers) == pytest.approx(len(r.workers), rel=EXACT)
    lockstep = r.staleness_max == 0 and len({worker.begins[-1] for worker in r.workers}) == 1
    for link, per_step in said.items():
        under_way = 0.0 if lockstep else 2.5 * max(per_step, r.push + r.pull)  # when the play ends
        said_in_all = per_step * r.played
        assert r.network.bytes_carried(link) == pytest.approx(said_in_all, rel=EXACT, abs=under_way)
        assert per_step <= recording.step.seconds * r.network.capacity(link) * (1 + 1e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_time_line_shows_one_step(name: str) -> None:
    result = run_recorded(resolved(CASES[name]), effects=False).result
    step = only(result).metrics.step_time_s
    for device in result.devices:
        spans = [span for span in result.timeline.spans if span.device == device.name]
        for a, b in pairwise(spans):
            assert b.start_s >= a.end_s - 1e-9 * step
        assert all(0.0 <= s.start_s < s.end_s <= step * (1 + EXACT) for s in spans)
    assert {span.kind for span in result.timeline.spans} >= {"forward", "backward"}


@pytest.mark.parametrize("name", CASES)
def test_the_same_scenario_gives_the_same_result(name: str) -> None:
    documents = [
        run_recorded(resolved(CASES[name]), detail=detail, effects=False).result.model_dump_json(exclude={"detail"})
        for detail in ("auto", "auto", "full")
    ]
    assert documents[0] == documents[1] == documents[2]
