"""Does reading long passages in windows rank better than reading their heads, and what does it cost?

    python -m benchmarks.long_passages --data COLLECTION --max-length 128

Re-ranks the BM25 candidates of a judged collection (BEIR layout, and a gzipped TREC run beside it) once with
truncated passages and once for each way of reading windows, and compares nDCG@10 question by question, with 95%
intervals of the difference from a paired bootstrap. `--join-titles` makes one long document of all passages with the
same title. Prints a table and writes `benchmarks/results/long_passages_*.json`.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.judged import first_stage
from flag_rerank_integrations import Reranker
from flag_rerank_integrations.demo.judgements import JudgedQuery
from flag_rerank_integrations.demo.quality import compare
from flag_rerank_integrations.evaluation import JudgedSet
from flag_rerank_integrations.evaluation.text_lines import numbered_lines

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Collection:
    """Judged questions, each with its candidates in BM25's order."""

    texts: Mapping[str, str]
    queries: list[JudgedQuery]
    candidates: list[list[str]]


@dataclass(frozen=True)
class Arm:
    """One way of reading long passages, and what came of it."""

    name: str
    ndcg: float
    difference: float
    low: float
    high: float
    windows_per_pair: float
    tokens_per_pair: float
    windowed: float
    truncated: float
    seconds: float


def main() -> None:
    """Measure, print, write."""
    options = parse()
    logging.getLogger("flag_rerank_integrations").setLevel(logging.ERROR)
    collection = read(options)
    arms = measure(options, collection)
    name = f"{options.data.name}{'_articles' if options.join_titles else ''}_{Path(options.model).name}"
    title = f"{name} at max_length={options.max_length}: {len(collection.queries)} questions, top {options.depth}"
    print_table(title, arms)
    RESULTS.mkdir(exist_ok=True)
    setting = {"collection": name, "questions": len(collection.queries), "depth": options.depth, "model": options.model}
    setting["max_length"] = options.max_length
    path = RESULTS / f"long_passages_{name}_{options.max_length}_{len(collection.queries)}.json"
    path.write_text(json.dumps({**setting, "arms": [asdict(arm) for arm in arms]}, indent=2) + "\n")
    print(f"written to {path}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory of a collection")
    parser.add_argument("--model", default="quickstart")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--queries", type=int, default=50, help="how many questions")
    parser.add_argument("--depth", type=int, default=20, help="candidates of each")
    parser.add_argument("--whole", type=int, help="a length that holds whole passages, as one more arm")
    parser.add_argument("--overlaps", type=float, nargs="+", default=[0.0, 0.25, 0.5])
    parser.add_argument("--join-titles", action="store_true", help="one document of all passages with the same title")
    return parser.parse_args()


def read(options: argparse.Namespace) -> Collection:
    """Read a collection; only questions with a relevant candidate can show a difference, and only those are kept."""
    judged, run = JudgedSet.from_folder(options.data), first_stage(options.data)
    texts, names = judged.corpus, {name: name for name in judged.corpus}
    if options.join_titles:
        texts, names = articles(options.data / "corpus.jsonl")
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    for query, passages in judged.qrels.items():
        for passage, grade in passages.items():
            name = names.get(passage, passage)
            grades[query][name] = max(grade, grades[query].get(name, 0))
    queries, candidates = [], []
    # Spread over the file, for neighbours in it may be about the same passage.
    for query in list(judged.queries)[:: max(1, len(judged.queries) // (2 * options.queries))]:
        found = list(dict.fromkeys(names[hit.passage_id] for hit in run.get(query, ())))[: options.depth]
        if any(grades[query].get(name, 0) > 0 for name in found):
            queries.append(JudgedQuery(judged.queries[query], grades[query]))
            candidates.append(found)
    return Collection(texts, queries[: options.queries], candidates[: options.queries])


def articles(corpus: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return a text for each title, all its passages in the file's order, and each passage's title."""
    texts: dict[str, str] = {}
    titles: dict[str, str] = {}
    for record in (json.loads(line) for _, line in numbered_lines(corpus)):
        title = titles[record["_id"]] = record["title"]
        texts[title] = f"{texts[title]}\n{record['text']}" if title in texts else record["text"]
    return texts, titles


def measure(options: argparse.Namespace, collection: Collection) -> list[Arm]:
    """Re-rank in every way; differences are to truncation."""
    ways: dict[str, dict[str, Any]] = {"truncate": {}}
    for aggregation, overlap in [*(("max", overlap) for overlap in options.overlaps), ("mean", options.overlaps[-1])]:
        ways[f"{aggregation}, overlap {overlap}"] = {
            "long_passages": "windows",
            "window_overlap": overlap,
            "window_aggregation": aggregation,
        }
    if options.whole:
        ways[f"whole ({options.whole} tokens)"] = {"max_length": options.whole}
    arms: list[Arm] = []
    baseline: list[list[str]] = []
    for name, way in ways.items():
        ranking, figures = rerank(options, collection, way)
        baseline = baseline or ranking
        ndcg = compare(collection.queries, baseline, ranking, options.depth)[0]
        arms.append(Arm(name, ndcg.after, ndcg.after - ndcg.before, ndcg.low, ndcg.high, **figures))
        print(arms[-1], flush=True)
    return arms


def rerank(
    options: argparse.Namespace, collection: Collection, way: dict[str, Any]
) -> tuple[list[list[str]], dict[str, float]]:
    """Return the candidates of each question in their new order, and what it cost."""
    settings = {"device": options.device, "max_length": options.max_length, **way}
    requests = [
        (query.text, [collection.texts[name] for name in found])
        for query, found in zip(collection.queries, collection.candidates, strict=True)
    ]
    with Reranker(options.model, **settings) as reranker:
        start = time.perf_counter()
        rankings = reranker.rank_many(requests)
        seconds = time.perf_counter() - start
        stats = reranker.stats()
    order = [
        [found[passage.index] for passage in ranking]
        for ranking, found in zip(rankings, collection.candidates, strict=True)
    ]
    pairs = stats.scored_pairs
    return order, {
        "windows_per_pair": stats.windows / pairs,
        "tokens_per_pair": stats.tokens / pairs,
        "windowed": stats.windowed_pairs / pairs,
        "truncated": stats.truncated_pairs / pairs,
        "seconds": seconds,
    }


def print_table(title: str, arms: list[Arm]) -> None:
    """Print a Markdown table."""
    print(f"\n{title}; {arms[0].truncated:.0%} of the pairs are too long\n")
    print("| way | nDCG@10 | difference (95% interval) | windows a pair | tokens a pair | seconds |")
    print("|---|---:|---:|---:|---:|---:|")
    for arm in arms:
        interval = f"{arm.difference:+.3f} ({arm.low:+.3f} to {arm.high:+.3f})" if arm is not arms[0] else ""
        print(
            f"| {arm.name} | {arm.ndcg:.3f} | {interval} | {arm.windows_per_pair:.2f} | {arm.tokens_per_pair:.0f} "
            f"| {arm.seconds:.0f} |"
        )


if __name__ == "__main__":
    main()
