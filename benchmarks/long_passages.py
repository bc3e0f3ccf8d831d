"""Does reading long passages in windows rank better than reading their heads, and what does it cost?

    python benchmarks/long_passages.py --data COLLECTION --max-length 128

Re-ranks the BM25 candidates of a judged collection (BEIR layout, `corpus.jsonl`, `queries.jsonl`, `qrels.tsv`, and a
run `bm25.top100.trec.gz`) once with truncated passages and once for each way of reading windows, and compares nDCG@10
question by question, with 95% intervals of the difference from a paired bootstrap. `--join-titles` makes one
long document of all passages with the same title. Prints a table and writes `benchmarks/results/long_passages_*.json`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flag_rerank_integrations import Reranker
from flag_rerank_integrations.demo.judgements import JudgedQuery
from flag_rerank_integrations.demo.quality import compare

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Collection:
    """Judged questions, each with its candidates in BM25's order."""

    texts: dict[str, str]
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
    texts, names = passages(options)
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    for line in (options.data / "qrels.tsv").read_text().splitlines()[1:]:
        query, passage, grade = line.split("\t")
        grades[query][names[passage]] = max(int(grade), grades[query].get(names[passage], 0))
    run: dict[str, list[str]] = defaultdict(list)
    with gzip.open(options.data / "bm25.top100.trec.gz", "rt") as file:
        for line in file:
            query, _, passage, *_ = line.split()
            run[query].append(names[passage])
    queries, candidates = [], []
    lines = (options.data / "queries.jsonl").read_text().splitlines()
    # Spread over the file, for neighbours in it may be about the same passage.
    for question in (json.loads(line) for line in lines[:: max(1, len(lines) // (2 * options.queries))]):
        found = list(dict.fromkeys(run[question["_id"]]))[: options.depth]
        if any(grades[question["_id"]].get(name, 0) > 0 for name in found):
            queries.append(JudgedQuery(question["text"], grades[question["_id"]]))
            candidates.append(found)
    return Collection(texts, queries[: options.queries], candidates[: options.queries])


def passages(options: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    """Return the texts by name, and each passage's name: its own, or its title's where they are joined."""
    texts: dict[str, str] = {}
    names: dict[str, str] = {}
    for line in (options.data / "corpus.jsonl").read_text().splitlines():
        record = json.loads(line)
        name = record["title"] if options.join_titles else record["_id"]
        names[record["_id"]] = name
        if options.join_titles:
            texts[name] = f"{texts[name]}\n{record['text']}" if name in texts else record["text"]
        else:
            texts[name] = f"{record.get('title') or ''} {record['text']}".strip()
    return texts, names


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
