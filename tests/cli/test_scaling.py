"""``sim scaling``: what the options ask for, the document and the text, and input that is refused."""

import re
import shlex
from pathlib import Path

import pytest

from sim.laws.scaling import LAWS, PF_DAY
from sim.study.scaling import MFU

GUIDE = Path(__file__).parents[2] / "docs" / "guide-scaling.md"
SPENT = {"gpu_hours", "days", "usd"}
LAW_NAMES = ("kaplan", "chinchilla", "chinchilla-refit", "20x")
H100 = ("--gpu", "h100-sxm")


@pytest.fixture
def ask(sim):
    """The document of ``sim scaling ARGS --json``."""

    def document(*args):
        answer = sim("scaling", *args, "--json")
        assert (answer.code, answer.err) == (0, "")
        return answer.json

    return document


# ---- what is answered


def test_a_budget_alone_gives_the_best_split_of_each_law(ask):
    """SCL-25, SCL-03, SCL-04, SCL-22, SCL-23."""
    document = ask("--compute", "3.14e23")
    assert document.keys() == {"budget", "hardware", "run", "laws", "warnings", "notes"}
    assert document["budget"] == {"given_as": "compute", "compute_flop": 3.14e23} | dict.fromkeys(SPENT)
    assert (document["hardware"], document["run"]) == (None, None)
    assert tuple(document["laws"]) == LAW_NAMES
    for law in document["laws"].values():
        assert law.keys() == {"source", "optimum", "exponents", "ten_times_compute", "run", "beyond_fit"}
        assert law["optimum"].keys() == {"parameters", "tokens", "compute_flop", "tokens_per_parameter", "loss"} | SPENT
        assert law["optimum"]["compute_flop"] == pytest.approx(3.14e23)
        assert law["run"] is None
    printed = document["laws"]["chinchilla"]
    assert printed["optimum"]["parameters"] == pytest.approx(24.475e9, rel=1e-4)
    assert printed["exponents"] == {"parameters": pytest.approx(0.451613), "tokens": pytest.approx(0.548387)}
    ten = document["laws"]["kaplan"]["ten_times_compute"]
    assert ten == {"parameters": pytest.approx(5.37032), "tokens": pytest.approx(1.86209, rel=1e-5)}
    assert document["laws"]["20x"]["optimum"]["loss"] is None


def test_a_budget_as_a_table(sim):
    answer = sim("scaling", "--compute", "3.14e23")
    head, *rows = answer.out.splitlines()[2:7]
    assert head.split()[:5] == ["law", "parameters", "tokens", "tokens/param", "loss"]
    assert [row.split()[:4] for row in rows] == [
        ["kaplan", "516B", "101B", "0.196"],
        ["chinchilla", "24.5B", "2.14T", "87.4"],
        ["chinchilla-refit", "52.9B", "989B", "18.7"],
        ["20x", "51.2B", "1.02T", "20"],
    ]
    assert {len(row) for row in rows} == {len(head)}
    assert all(len(line) <= 100 for line in answer.out.splitlines())
    assert "it says nothing about quality" in " ".join(answer.out.split())


@pytest.mark.parametrize(
    ("args", "flop"),
    [
        (("--compute", "315 ZFLOP"), 315e21),
        (("--compute", "3640 PF-days"), 3640 * PF_DAY),
        (("--days", "30", "--gpus", "1024", *H100), 1024 * 989e12 * MFU * 30 * 86_400),
        (("--days", "1 days", "--gpus", "1K", *H100, "--mfu", "50%"), 1000 * 989e12 * 0.5 * 86_400),
        (("--usd", "1000000", "--usd-per-gpu-hour", "2.5", *H100), 4e5 * 3600 * 989e12 * MFU),
        (("--usd", "$1M", "--usd-per-gpu-hour", "$2.5/h", *H100), 4e5 * 3600 * 989e12 * MFU),
    ],
)
def test_budgets_of_compute_time_and_money(ask, args, flop):
    assert ask(*args)["budget"]["compute_flop"] == pytest.approx(flop)


def test_hardware_says_days_and_dollars_and_whether_the_mfu_is_assumed(ask):
    document = ask("--compute", "1e24", *H100, "--gpus", "1024", "--usd-per-gpu-hour", "2.5")
    hours = 1e24 / (989e12 * 0.4 * 3600)
    spent = {key: document["budget"][key] for key in SPENT}
    assert spent == pytest.approx({"gpu_hours": hours, "days": hours / 1024 / 24, "usd": hours * 2.5})
    assert document["hardware"] == {
        "gpu": "h100-sxm", "gpus": 1024, "peak_flop_per_s": 989e12, "mfu": 0.4, "mfu_assumed": True,
        "usd_per_gpu_hour": 2.5,
    }  # fmt: skip
    assert any("MFU 0.4 is assumed" in note for note in document["notes"])
    told = ask("--compute", "1e24", *H100, "--mfu", "0.4")
    assert not told["hardware"]["mfu_assumed"]
    assert not any("assumed" in note for note in told["notes"])


def test_a_model_and_tokens_give_compute_loss_and_distance(ask):
    """SCL-20, SCL-27: GPT-3's own shape, Kaplan without its embeddings."""
    document = ask("--model", "gpt-3-175b", "--tokens", "300B")
    run = document["run"]
    assert document["budget"] is None
    assert run["training"] == "under-trained"
    assert run["compute_flop"] == 6 * run["parameters"] * 300e9
    assert run["tokens_per_parameter"] == pytest.approx(1.714, rel=0.01)
    assert run["share_of_budget"] is None
    assert any(warning.startswith("under-trained") for warning in document["warnings"])
    laws = document["laws"]
    assert laws["chinchilla"]["run"]["loss"] == pytest.approx(2.0023, abs=1e-4)
    assert laws["chinchilla"]["run"]["compute_saved"] == pytest.approx(0.664, abs=1e-3)
    assert laws["kaplan"]["run"]["loss_excess"] is None
    assert laws["kaplan"]["run"]["parameters"] == run["parameters_without_embeddings"] < run["parameters"]
    assert laws["20x"]["run"]["loss"] is None
    assert laws["20x"]["run"]["parameters_over_optimum"] == pytest.approx((20 / run["tokens_per_parameter"]) ** 0.5)


def test_llama_2_7b_is_over_trained(ask):
    """SCL-28: 286 tokens a parameter of a round 7B."""
    document = ask("--parameters", "7B", "--tokens", "2T")
    assert document["run"]["tokens_per_parameter"] == pytest.approx(285.714, abs=1e-3)
    assert document["run"]["training"] == "over-trained"
    assert any(warning.startswith("over-trained") for warning in document["warnings"])


def test_gpt_3_takes_years_alone_and_days_on_a_cluster(ask):
    """TC-01, TC-03, TC-04, with the table's 314 ZFLOP as 174.4B parameters."""
    size = ("--parameters", "174444444444", "--tokens", "300B")
    alone = ask(*size, "--gpu", "a100-sxm-80gb", "--gpus", "1", "--mfu", "1")["run"]
    assert alone["days"] / 365 == pytest.approx(31.9131, abs=1e-3)
    cluster = ask(*size, "--gpu", "a100-sxm-80gb", "--gpus", "1024")["run"]
    assert cluster["days"] == pytest.approx(28.4382, abs=1e-3)
    v100 = ask(*size, "--gpu", "v100-sxm-32gb", "--mfu", "0.224", "--usd-per-gpu-hour", "1.5")["run"]
    assert v100["usd"] == pytest.approx(4.67262e6, rel=1e-4)


def test_a_model_and_a_budget_give_the_tokens_it_affords(ask):
    document = ask("--model", "llama-2-70b", "--compute", "1e24")
    run = document["run"]
    assert run["tokens"] == pytest.approx(1e24 / (6 * run["parameters"]))
    assert run["share_of_budget"] == pytest.approx(1)


def test_tokens_and_a_budget_give_the_size_they_afford(ask):
    assert ask("--tokens", "2T", "--compute", "1e24")["run"]["parameters"] == pytest.approx(1e24 / 12e12)


def test_a_run_over_its_budget_is_said(ask, sim):
    args = ("--parameters", "70B", "--tokens", "2T", "--compute")
    over = ask(*args, "4.2e23")
    assert over["run"]["share_of_budget"] == pytest.approx(2)
    assert "the run takes 2 times the budget" in over["warnings"]
    assert "42% of the budget" in sim("scaling", *args, "2e24").out


def test_a_size_alone_gives_the_data_that_goes_with_it(ask, sim):
    """BK-03: 7B parameters, 140B tokens."""
    document = ask("--parameters", "7B", "--law", "20x")
    assert list(document["laws"]) == ["20x"]
    assert document["laws"]["20x"]["optimum"]["tokens"] == pytest.approx(140e9)
    assert document["run"] is None
    answer = sim("scaling", "--parameters", "7B", *H100, "--gpus", "64", "--usd-per-gpu-hour", "2.5")
    assert answer.out.splitlines()[2].split()[-3:] == ["FLOP", "time", "bill"]


def test_data_alone_gives_the_size_that_goes_with_it(ask):
    assert ask("--tokens", "140B", "--law", "20x")["laws"]["20x"]["optimum"]["parameters"] == pytest.approx(7e9)


def test_extrapolation_is_said(ask):
    document = ask("--parameters", "160B", "--tokens", "100B", "--law", "chinchilla")
    assert document["laws"]["chinchilla"]["beyond_fit"] == {"parameters": 10.0, "tokens": None}
    assert "extrapolated beyond the largest N and D fitted: chinchilla N 10x" in document["warnings"]
    inside = ask("--parameters", "1B", "--tokens", "20B", "--law", "chinchilla")
    assert inside["warnings"] == []
    below = ask("--parameters", "7M", "--tokens", "20B", "--law", "chinchilla")
    assert any("N 10x below the smallest" in warning for warning in below["warnings"])


def test_a_mixture_counts_what_a_token_meets(ask):
    document = ask("--model", "mixtral-8x7b", "--tokens", "1T")
    assert document["run"]["parameters"] == pytest.approx(12.9e9, rel=0.01)
    assert any("mixture of experts" in warning for warning in document["warnings"])


@pytest.mark.parametrize(
    ("text", "value"), [("2T", 2e12), ("2e12", 2e12), ("2000B", 2e12), ("2t", 2e12), ("500M", 5e8), ("64K", 64e3)]
)
def test_counts_take_suffixes(ask, text, value):
    assert ask("--parameters", "1b", "--tokens", text)["run"]["tokens"] == value


# ---- fitting


@pytest.fixture
def points(tmp_path):
    """A file of loss points."""
    file = tmp_path / "points.csv"

    def write(text):
        file.write_text(text)
        return file

    return write


def test_small_models_predict_a_large_one(ask, sim, points):
    """SCL-29: Kaplan's constants within 1% from synthetic points."""
    rows = [f"{size},{LAWS['kaplan'].loss_of_parameters(float(size)):.6f}" for size in (1e6, 1e7, 1e8, 1e9)]
    file = points("Parameters, loss\n" + "\n".join(rows) + "\n\n")
    document = ask("--fit", file, "--parameters", "175B")
    assert document["fit"]["column"] == "parameters"
    assert document["fit"]["points"] == 4
    assert document["fit"]["scale"] == pytest.approx(8.8e13, rel=0.01)
    assert document["fit"]["exponent"] == pytest.approx(0.076, rel=0.01)
    assert document["predicted"]["loss"] == pytest.approx((8.8e13 / 175e9) ** 0.076, rel=1e-4)
    assert document["predicted"]["beyond_fit"] == pytest.approx(175)
    text = sim("scaling", "--fit", file, "--parameters", "175B").out
    assert "loss 1.6044 at 175B parameters, extrapolated 175x" in text
    assert ask("--fit", file)["predicted"] is None
    named = ask("--fit", file, "--model", "gpt-3-175b")["predicted"]["parameters"]
    assert named == pytest.approx(173.9e9, rel=1e-3)  # without embeddings


@pytest.mark.parametrize("column", ["tokens", "compute"])
def test_other_columns_are_fitted_too(ask, points, column):
    file = points(f"loss,{column}\n4,1e15\n2,1e16\n")
    document = ask("--fit", file, f"--{column}", "1e17")
    assert document["predicted"] == {column: 1e17, "loss": pytest.approx(1), "beyond_fit": pytest.approx(10)}


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        ("", ["{}:1: needs a column loss and one of parameters, tokens, compute; it has none"]),
        ("size,loss\n1,2\n", ["{}:1: needs a column loss and one of parameters, tokens, compute; it has size, loss"]),
        ("tokens,loss\n", ["{}: has no points"]),
        ("tokens,loss\n1M,3\n", ["{}: a power law needs points at two sizes or more"]),
        ("tokens,loss\n1M,3\n2M,4\n",
         ["{}: the loss does not fall from small to large: there is no power law to fit"]),
        ("tokens,loss\n1M,x\n-2M,3\n3M\n", [
            "{}:2: loss: 'x' is not a number with a unit: write it like 2.31",
            "{}:3: tokens: '-2M' is negative: a number of tokens cannot be below zero",
            "{}:4: loss: '' is not a number with a unit: write it like 2.31",
        ]),
        ("tokens,loss\n1M,0\n", ["{}:2: loss: must be above zero"]),
    ],
)  # fmt: skip
def test_points_that_cannot_be_fitted(sim, points, text, complaints):
    file = points(text)
    answer = sim("scaling", "--fit", file)
    assert (answer.code, answer.out) == (2, "")
    assert answer.complaints == [complaint.format(file) for complaint in complaints]


def test_a_fit_takes_nothing_that_it_does_not_use(sim, points, tmp_path):
    file = points("parameters,loss\n1M,4\n1B,3\n")
    answer = sim("scaling", "--fit", file, "--tokens", "2T", "--gpus", "8")
    assert answer.complaints == [
        "--fit of parameters predicts at --parameters or --model: it does not take --gpus, --tokens"
    ]
    assert sim("scaling", "--fit", tmp_path / "none.csv").err.endswith("none.csv: No such file or directory\n")
    file.write_bytes(b"\xff\xfe\x00")
    assert sim("scaling", "--fit", file).err.endswith("not a CSV file in UTF-8\n")


# ---- what is refused


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        ((), "nothing to work out: give a budget (--compute, --days or --usd), a size (--model or --parameters), "
             "--tokens, or two of the three"),
        ((*H100, "--gpus", "8"), "nothing to work out: "),
        (("--compute", "1e24", "--usd", "5", *H100, "--usd-per-gpu-hour", "2"),
         "--compute and --usd are 2 budgets: give one"),
        (("--compute", "1e24", "--days", "3", *H100, "--gpus", "8"), "--compute and --days are 2 budgets: give one"),
        (("--model", "llama-2-7b", "--parameters", "7B"), "--model and --parameters are two sizes: give one"),
        (("--compute", "-1e24"), "--compute: '-1e24' is negative: an amount of compute cannot be below zero"),
        (("--tokens", "-2T"), "--tokens: '-2T' is negative: a number of tokens cannot be below zero"),
        (("--parameters", "0"), "--parameters: '0' is not a number of parameters: it must be a positive whole number"),
        (("--parameters", "70X"), "--parameters: '70X': unknown unit 'X', write it like 70B"),
        (("--tokens", "12 GB"), "--tokens: '12 GB' is an amount of bytes, not a number of tokens: write it like 2T"),
        (("--tokens", "many"), "--tokens: 'many' is not a number with a unit: write it like 2T"),
        (("--tokens", "nan"), "--tokens: 'nan' is not a number with a unit: write it like 2T"),
        (("--tokens", "1e30"), "--tokens: '1e30' is too large: a number of tokens may be at most 1e+18"),
        (("--compute", "24"), "24 FLOP is too small a budget to train with: the laws are asked from 1e+12 to 1e+36"),
        (("--compute", "0"), "--compute: must be above zero"),
        (("--compute", "1e12", "--parameters", "1T"), "1e+12 FLOP does not buy one token"),
        (("--compute", "1e12", "--tokens", "1T"), "1e+12 FLOP does not buy one parameter"),
        (("--compute", "1e24", "--gpu", "h100sxm"), "--gpu: unknown gpu 'h100sxm', did you mean 'h100-sxm'?"),
        (("--compute", "1e24", "--gpu", "zzzz"), "--gpu: unknown gpu 'zzzz'; sim catalog gpu lists those"),
        (("--model", "llama-2-70"), "--model: unknown model 'llama-2-70', did you mean 'llama-2-70b'?"),
        (("--model", "no/config.json", "--tokens", "2T"), "--model: no/config.json: no such"),
        (("--compute", "1e24", *H100, "--mfu", "1.4"), "--mfu: '1.4' is more than 1"),
        (("--compute", "1e24", *H100, "--mfu", "0"), "--mfu: must be above zero"),
        (("--compute", "1e24", "--mfu", "0.4"), "--mfu: needs --gpu"),
        (("--compute", "1e24", "--gpus", "8"), "--gpus: needs --gpu"),
        (("--days", "3"), "--days: needs --gpu and --gpus"),
        (("--usd", "100", *H100), "--usd: needs --usd-per-gpu-hour"),
        (("--usd", "100 GB", *H100, "--usd-per-gpu-hour", "2"), "--usd: '100 GB' is an amount of bytes"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_code_2(sim, args, complaint):
    answer = sim("scaling", *args)
    assert (answer.code, answer.out, len(answer.complaints)) == (2, "", 1)
    assert answer.err.startswith(complaint)


def test_all_that_is_wrong_is_told_at_once(sim):
    answer = sim("scaling", "--tokens", "2Q", "--parameters", "x", *H100, "--gpus", "1.5")
    assert answer.code == 2
    assert [complaint.split(":")[0] for complaint in answer.complaints] == ["--parameters", "--tokens", "--gpus"]


def test_an_unknown_law_is_answered_with_those_there_are(sim):
    answer = sim("scaling", "--compute", "1e24", "--law", "moore")
    assert (answer.code, answer.out) == (2, "")
    assert all(law in answer.complaints[-1] for law in LAW_NAMES)


def test_the_help_says_what_the_laws_do_not(sim):
    words = " ".join(sim("scaling", "--help").out.split())
    assert "nothing about quality" in words
    assert "they extrapolate" in words


# ---- the guide


def examples():
    """Commands of the guide that are followed by their output."""
    text = GUIDE.read_text(encoding="utf-8")
    return re.findall(r"^```sh\n(sim [^\n]*)\n```\n\n```text\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_guide_has_examples():
    assert len(examples()) == 3


@pytest.mark.parametrize(("line", "output"), examples(), ids=lambda text: text[:40])
def test_the_guide_shows_true_output(sim, line, output):
    assert sim(*shlex.split(line)[1:]).out == output
