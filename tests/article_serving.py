"""Figures of the reference article on serving and its price, each read off a run of a scenario.

Keys are rows of the project's table of the article's claims (``tests/data/article_serving.csv``). ``IDEAL`` plays the
article's own arithmetic, ``MEASURED`` asks the same of measured stacks and of memory that has an end: the scenarios
that the article's ones name. Units are those of ``docs/article.md``. HOM-04 is told as the time of a token, CST-29 as
the ratio of two prices.
"""

from __future__ import annotations

from functools import cache, partial

from sim.adapters.lookup import Library
from sim.jobs.serving.replica import Stage
from sim.results.schema import Cost, ServingMetrics
from sim.spec.hardware import Gpu
from sim.study.compare import Options, compare
from sim.study.executors import open_executor

from .article import Figure, run
from .helpers import shipped

SERVER, H100, PIPELINE, ROCE, PAIR = (
    "cost_8x4090_dc", "cost_8xh100_dc", "home_pp8_10gbe", "home_tp8_roce200", "home_tp4pp2_25g"
)  # fmt: skip
REAL_SERVER, REAL_H100, REAL_PIPELINE, REAL_ROCE, REAL_PAIR = (
    f"../{name}" for name in ("4090_tp_pcie", "h100_tp8", "4090_pp_home", "4090_tp_roce", "4090_tp4_pp2_25gbe")
)
HOME = "../4090_pp_home_ideal"

CLIENTS, SEQUENCES = "jobs.0.load.closed_loop.clients=", "jobs.0.batching.max_sequences="
ALONE = ("assume.tp_overlap=none", f"{SEQUENCES}330", f"{CLIENTS}330")
ALONE_H100 = ("assume.tp_overlap=none", f"{SEQUENCES}295", f"{CLIENTS}295")
ONE_PROMPT = ("assume.tp_overlap=none", "assume.tp_latency=30 us", f"{CLIENTS}1", "jobs.0.load.requests=4")
FULL_PIPELINE = ("jobs.0.plan.micro_batches=12", f"{CLIENTS}3960", "jobs.0.load.requests=11880")
STATIC = "jobs.0.batching={policy: static, batch_size: 590}"
UNEVEN, LONGEST = "jobs.0.load.output_tokens={empirical: {values: [1, 511]}}", "jobs.0.load.output_tokens=511"
GPUS_4090 = "cost.capital=[{what: RTX 4090, per: gpu, unit_price: 1600 USD}]"
#: 400 W a GPU and 2 kW of server, as the article counts it, and not 5 kW in one.
PARTS = ("cost.power=null", "define.gpus={rtx4090: {like: rtx4090, tdp: 400 W}}")
#: The home build's 20,000 USD and 1.5 USD an hour.
HOME_PRICE = (
    "cost={capital: 20000 USD, amortisation: 3 years, electricity: 0.1 USD/kWh, power: {idle: 5 kW, busy: 5 kW}, "
    "hosting: {price: hosting-miner-2023}}"
)
PORTS = "cost.capital=[{what: port of a 20-port switch, per: port, unit_price: 75 USD}]"
API = "cost.api_price=2 USD/Mtok"
"""0.002 USD for a thousand tokens."""
GIGABIT = "cluster.network.bandwidth=1.024 Gbps"
"""128 MB/s, as the article counts it."""
SIXTY = (GIGABIT, "jobs.0.plan.micro_batches=8", f"{CLIENTS}480", f"{SEQUENCES}480", "jobs.0.load.requests=1920")
TCP = "cluster.network={bandwidth: 1 Gbps, latency: 0.25 ms}"
FREE = "cluster.network={bandwidth: 1e9 Gbps, latency: 0 s}"
FEW = "jobs.0.load.requests=8"
LIBRARY = Library()


# ---- reading runs


def metrics(name: str, *overrides: str) -> ServingMetrics:
    """The job's numbers."""
    found = run(name, *overrides).result.metrics
    assert isinstance(found, ServingMetrics)
    return found


def cost(name: str, *overrides: str) -> Cost:
    """The bill."""
    found = run(name, *overrides).result.cost
    assert found is not None
    return found


def stage(name: str, *overrides: str) -> Stage:
    """The first stage as it was played."""
    return run(name, *overrides).recording.jobs[0].replicas[0].stages[0]


def rate(name: str, *overrides: str) -> float:
    """Tokens a second."""
    return metrics(name, *overrides).output_tokens_per_s


def token_ms(name: str, *overrides: str) -> float:
    """Milliseconds a token."""
    found = metrics(name, *overrides).tpot_s.mean
    assert found is not None
    return 1e3 * found


def speed(name: str, *overrides: str) -> float:
    """Tokens a second that a user sees."""
    found = metrics(name, *overrides).tokens_per_s_per_user
    assert found is not None
    return found


def transfers_ms(name: str, batch: int, *overrides: str) -> float:
    """Milliseconds of a pass's collectives on one stage."""
    return 1e3 * stage(name, *overrides).law.cost(batch, 0).communication


def kernels_ms(name: str, batch: int, *overrides: str) -> float:
    """Milliseconds of a pass's kernels on one stage."""
    return 1e3 * stage(name, *overrides).law.cost(batch, 0).busy


def hop_ms(name: str, *overrides: str, batch: int = 330) -> float:
    """Milliseconds that a batch's activations take to the next stage."""
    hop = stage(name, *overrides).hop
    assert hop is not None
    return 1e3 * hop.bytes_per_token * batch / hop.cap


def tokens_per_usd(name: str, *overrides: str) -> float:
    """Million tokens for a dollar."""
    found = cost(name, *overrides).tokens_per_usd
    assert found is not None
    return found / 1e6


def usd_per_mtok(name: str, *overrides: str) -> float:
    """Dollars for a million tokens."""
    return 1 / tokens_per_usd(name, *overrides)


def capital(name: str, *overrides: str) -> float:
    """What the cluster cost."""
    found = cost(name, *overrides).capital_usd
    assert found is not None
    return found


def hourly(name: str, what: str, *overrides: str) -> float:
    """A part of the bill, in USD an hour."""
    return cost(name, *overrides).breakdown_usd_per_hour[what]


def items(name: str) -> dict[str, float]:
    """What was paid for each thing."""
    return cost(name).capital_items_usd


def times_an_api(name: str, *overrides: str) -> float:
    """How many times its cost GPT-3.5 asks for a token."""
    found = cost(name, *overrides).api_price_ratio
    assert found is not None
    return found


def kilowatts(name: str, *overrides: str) -> float:
    """Power of the cluster."""
    found = cost(name, *overrides).power_w
    assert found is not None
    return found / 1e3


@cache
def kilowatts_for_as_much(of: str, against: str) -> float:
    """Power of as many copies of a cluster as cost what another costs an hour, from a comparison at equal budget."""
    scenarios = [shipped(f"article/{name}") for name in (against, of)]
    options = Options(seeds=1, at_equal="budget", curve=False)
    found = compare(scenarios, options, partial(open_executor, "serial", 1, ()))
    return found.scenarios[1].metrics["power_w"].mean / 1e3


def gpu(name: str) -> Gpu:
    """A GPU of the catalogue."""
    return LIBRARY.gpu(name)


def tera(name: str, key: str = "fp16") -> float:
    """A dense peak in TFLOPS."""
    return float(getattr(gpu(name).flops, key)) / 1e12


def usd(price: str) -> float:
    """A price of the catalogue."""
    found = LIBRARY.price(price).usd
    assert found is not None
    return found


def at_a_share(share: float) -> float:
    """How much dearer a token is if that share of what the server can do is asked for."""
    arrivals = f"deterministic: {{rate: {share * rate(SERVER) / 256:.6f} req/s}}"
    load = f"jobs.0.load={{{arrivals}, prompt_tokens: 1, output_tokens: 256, requests: 2000}}"
    return usd_per_mtok(SERVER, load) / usd_per_mtok(SERVER)


# ---- the rows

IDEAL: dict[str, Figure] = {
    # eight 4090 and eight H100, token by token
    "INF-01": lambda: kernels_ms(HOME, 1),
    "INF-02": lambda: token_ms(HOME),
    "INF-03": lambda: speed(HOME),
    "TPI-04": lambda: token_ms(SERVER, *ONE_PROMPT),
    "TPI-05": lambda: speed(SERVER, *ONE_PROMPT),
    "TPI-08": lambda: transfers_ms(SERVER, 330, *ALONE),
    "TPI-09": lambda: token_ms(SERVER, *ALONE),
    "TPI-10": lambda: speed(SERVER, *ALONE),
    "TPI-14": lambda: transfers_ms(H100, 295, *ALONE_H100),
    "TPI-15": lambda: kernels_ms(H100, 295, *ALONE_H100),
    "TPI-16": lambda: token_ms(H100, *ALONE_H100),
    "TPI-17": lambda: speed(H100, *ALONE_H100),
    "TPI-18": lambda: transfers_ms(SERVER, 330, *ALONE) / token_ms(H100, *ALONE_H100),
    # what the 4090 server costs
    "CST-10": lambda: rate(SERVER),
    "CST-11": lambda: capital(SERVER, GPUS_4090),
    "CST-12": lambda: capital(SERVER),
    "CST-13": lambda: hourly(SERVER, "capital"),
    "CST-14": lambda: kilowatts(SERVER, *PARTS),
    "CST-15": lambda: hourly(SERVER, "electricity"),
    "CST-16": lambda: hourly(SERVER, "hosting"),
    "CST-17": lambda: cost(SERVER).usd_per_hour,
    "CST-18": lambda: rate(SERVER) * 3600 / 1e6,
    "CST-19": lambda: tokens_per_usd(SERVER),
    "CST-20": lambda: 1 / (cost(SERVER).api_usd_per_million_tokens or 0.0),
    "CST-21": lambda: times_an_api(SERVER),
    # what the H100 server costs
    "CST-22": lambda: hourly(H100, "capital"),
    "CST-23": lambda: hourly(H100, "electricity"),
    "CST-24": lambda: hourly(H100, "hosting"),
    "CST-25": lambda: cost(H100).usd_per_hour,
    "CST-26": lambda: rate(H100),
    "CST-27": lambda: rate(H100) * 3600 / 1e6,
    "CST-28": lambda: tokens_per_usd(H100),
    "CST-29": lambda: usd_per_mtok(H100) / usd_per_mtok(SERVER),
    "CST-30": lambda: cost(H100).usd_per_hour / cost(SERVER).usd_per_hour,
    "CST-31": lambda: rate(H100) / rate(SERVER),
    "CST-33": lambda: at_a_share(0.4),
    "CST-34": lambda: rate(H100, STATIC, LONGEST) / rate(H100, STATIC, UNEVEN),
    "CST-35": lambda: usd_per_mtok(H100, "assume.parameters=175e9") / usd_per_mtok(H100),
    "CST-37": lambda: hourly(SERVER, "electricity") / cost(SERVER).usd_per_hour,
    # three designs at home
    "HOM-02": lambda: hop_ms(PIPELINE),
    "HOM-04": lambda: token_ms(PIPELINE),
    "HOM-05": lambda: rate(PIPELINE, *FULL_PIPELINE),
    "HOM-06": lambda: capital(PIPELINE, PORTS),
    "HOM-07": lambda: capital(PIPELINE),
    "HOM-08": lambda: transfers_ms(ROCE, 330) / 160,
    "HOM-09": lambda: transfers_ms(ROCE, 330),
    "HOM-10": lambda: token_ms(ROCE),
    "HOM-11": lambda: speed(ROCE),
    "HOM-12": lambda: items(ROCE)["eight ports"],
    "HOM-13": lambda: capital(ROCE),
    "HOM-14": lambda: 2 * transfers_ms(PAIR, 330),
    "HOM-15": lambda: hop_ms(PAIR),
    "HOM-16": lambda: kernels_ms(PAIR, 330),
    "HOM-17": lambda: token_ms(PAIR),
    "HOM-18": lambda: speed(PAIR),
    "HOM-19": lambda: capital(PAIR),
    "HOM-20": lambda: hourly(SERVER, "capital", HOME_PRICE),
    "HOM-21": lambda: hourly(SERVER, "hosting", HOME_PRICE),
    "HOM-22": lambda: tokens_per_usd(SERVER, HOME_PRICE),
    "HOM-24": lambda: kilowatts_for_as_much(PIPELINE, H100),
    "HOM-25": lambda: 1 - items(H100)["H100"] / capital(H100),
    "HOM-26": lambda: 1 - capital(SERVER, GPUS_4090) / capital(SERVER, HOME_PRICE),
    "HOM-27": lambda: tokens_per_usd(SERVER, HOME_PRICE) / tokens_per_usd(H100),
    # over one gigabit
    "NET-09": lambda: token_ms(HOME, TCP) - token_ms(HOME, FREE, FEW),
    "NET-11": lambda: hop_ms(PIPELINE, GIGABIT),
    "NET-12": lambda: 8e-3 * hop_ms(PIPELINE, GIGABIT),
    "NET-13": lambda: speed(PIPELINE, GIGABIT),
    "NET-18": lambda: rate(PIPELINE, *SIXTY),
    "NET-19": lambda: rate(PIPELINE, *SIXTY) * 2 * 70e9 / (8 * 330e12),
    # hardware, from the catalogue
    "HW-01": lambda: tera("h100-sxm"),
    "HW-02": lambda: tera("rtx4090", "fp16_fp16acc"),
    "HW-05": lambda: tera("h100-sxm") / tera("rtx4090", "fp16_fp16acc"),
    "HW-06": lambda: gpu("h100-sxm").memory_bandwidth / gpu("rtx4090").memory_bandwidth,
    "HW-07": lambda: tera("rtx4090", "fp16_fp16acc") / tera("a100-sxm-80gb"),
    "HW-08": lambda: gpu("rtx4090").memory_bandwidth / gpu("a100-sxm-80gb").memory_bandwidth,
    "HW-09": lambda: gpu("a100-sxm-80gb").memory / gpu("rtx4090").memory,
    "HW-10": lambda: tera("rtx4090", "tf32") / tera("a100-sxm-80gb", "tf32"),
    "HW-11": lambda: LIBRARY.link("pcie4-x16").bandwidth / 1e9,
    "HW-12": lambda: LIBRARY.link("nvlink4").bandwidth / 1e9,
    "HW-13": lambda: LIBRARY.link("nvlink4-h800").bandwidth / LIBRARY.link("nvlink4").bandwidth,
    "HW-14": lambda: tera("gh200-96gb") / tera("h100-sxm"),
    "HW-15": lambda: 2 * LIBRARY.link("nvlink3-bridge").bandwidth / 1e9,
    "CST-32": lambda: usd("h100-sxm") / usd("rtx4090"),
}

MEASURED: dict[str, Figure] = {
    "INF-02": lambda: token_ms(REAL_PIPELINE),
    "INF-03": lambda: speed(REAL_PIPELINE),
    "TPI-09": lambda: token_ms(REAL_SERVER),
    "TPI-10": lambda: speed(REAL_SERVER),
    "TPI-16": lambda: token_ms(REAL_H100),
    "TPI-17": lambda: speed(REAL_H100),
    "CST-10": lambda: rate(REAL_SERVER),
    "CST-18": lambda: rate(REAL_SERVER) * 3600 / 1e6,
    "CST-19": lambda: tokens_per_usd(REAL_SERVER),
    "CST-21": lambda: times_an_api(REAL_SERVER, API),
    "CST-26": lambda: rate(REAL_H100),
    "CST-27": lambda: rate(REAL_H100) * 3600 / 1e6,
    "CST-28": lambda: tokens_per_usd(REAL_H100),
    "CST-29": lambda: usd_per_mtok(REAL_H100) / usd_per_mtok(REAL_SERVER),
    "CST-31": lambda: rate(REAL_H100) / rate(REAL_SERVER),
    "CST-34": lambda: rate(H100, LONGEST) / rate(H100, UNEVEN),
    "HOM-04": lambda: token_ms(REAL_PIPELINE),
    "HOM-05": lambda: rate(REAL_PIPELINE),
    "HOM-07": lambda: capital(REAL_PIPELINE),
    "HOM-10": lambda: token_ms(REAL_ROCE),
    "HOM-11": lambda: speed(REAL_ROCE),
    "HOM-15": lambda: hop_ms(PAIR, "cluster.network.bandwidth=25Gbps"),
    "HOM-17": lambda: token_ms(REAL_PAIR),
    "HOM-18": lambda: speed(REAL_PAIR),
    "HOM-22": lambda: tokens_per_usd(REAL_PIPELINE),
    "HOM-24": lambda: kilowatts_for_as_much(REAL_PIPELINE, REAL_H100),
    "HOM-27": lambda: tokens_per_usd(REAL_PIPELINE) / tokens_per_usd(REAL_H100),
    "HW-02": lambda: tera("rtx4090"),
    "HW-05": lambda: tera("h100-sxm") / tera("rtx4090"),
    "HW-07": lambda: tera("rtx4090") / tera("a100-sxm-80gb"),
}
