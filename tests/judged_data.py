"""A small judged set, made by hand, with what real ones have: gaps, ties, other scripts, and odd grades."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

from flag_rerank_integrations import RankedPassage
from flag_rerank_integrations.evaluation import JudgedSet, Run, ScoredPassage

CORPUS = {
    "population": "Berlin has a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
    "museums": "Berlin is well known for its museums.",
    "new-york": "New York City is famous for the Metropolitan Museum of Art.",
    "panda": "The giant panda (Ailuropoda melanoleuca) is a bear species endemic to China.",
    "bamboo": "Pandas eat bamboo for most of the day.",
    "大熊猫": "大熊猫是中国特有的熊科动物。",
}
QUERIES = {
    "berlin": "How many people live in Berlin?",
    "panda": "what is a panda?",
    "unjudged": "where is New York City?",
    "not-found": "who wrote Faust?",
}
QRELS = {
    "berlin": {"population": 2, "museums": 1},
    "panda": {"panda": 1, "bamboo": 1, "new-york": -1},
    "not-found": {"大熊猫": 1},
    "no-text": {"panda": 1},
}
RUN: Run = {
    "berlin": [ScoredPassage("new-york", 3.5), ScoredPassage("museums", 2.0), ScoredPassage("population", 1.0)],
    # Equal scores, which keep this order.
    "panda": [ScoredPassage("new-york", 2.0), ScoredPassage("bamboo", 2.0), ScoredPassage("panda", 2.0)],
    "unjudged": [ScoredPassage("new-york", 1.0)],
}
JUDGED = JudgedSet(QUERIES, CORPUS, QRELS, "small")


class Scores:
    """Ranks passages by given scores: those of a text, or 0."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores = {CORPUS.get(name, name): score for name, score in scores.items()}
        self.asked: list[tuple[str, list[str]]] = []

    def rank_many(self, requests: Sequence[tuple[str, Sequence[str]]]) -> list[list[RankedPassage]]:
        self.asked += [(query, list(texts)) for query, texts in requests]
        return [self._ranked(texts) for _, texts in requests]

    def _ranked(self, texts: Sequence[str]) -> list[RankedPassage]:
        scored = [RankedPassage(index, self.scores.get(text, 0.0)) for index, text in enumerate(texts)]
        return sorted(scored, key=lambda ranked: -ranked.score)


def write_folder(folder: Path) -> Path:
    """Write the set as BEIR lays it out, and its run beside it, gzipped; return the folder."""
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": name, "title": "", "text": text} for name, text in CORPUS.items()]
    queries = [{"_id": name, "text": text} for name, text in QUERIES.items()]
    for name, entries in (("corpus.jsonl", corpus), ("queries.jsonl", queries)):
        text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        (folder / name).write_text(text, encoding="utf-8")
    rows = [f"{query}\t{passage}\t{grade}" for query, grades in QRELS.items() for passage, grade in grades.items()]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows, ""]), encoding="utf-8")
    lines = [
        f"{query} Q0 {passage} {rank} {score} small\n"
        for query, passages in RUN.items()
        for rank, (passage, score) in enumerate(passages, 1)
    ]
    (folder / "run.trec.gz").write_bytes(gzip.compress("".join(lines).encode()))
    return folder
