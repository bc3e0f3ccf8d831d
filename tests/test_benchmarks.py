"""The benchmarks measure what they say: operations, lengths, rankings, and one small comparison from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from statistics import median
from typing import Any

import ir_measures
import pytest
import torch
from judged_data import CORPUS, QUERIES, RUN, write_folder
from tiny_models import SIZES, Spec, TinyModels, build
from tiny_tokenizers import bert_tokenizer
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from benchmarks import judged, long_passages, precision, workloads
from benchmarks.floor import work
from benchmarks.limit import Products
from benchmarks.models import locate
from benchmarks.reference import pair_ids, tokenizer_of

ROOT = Path(__file__).resolve().parent.parent


def counted_operations(model: Any, length: int, **options: Any) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.arange(4, 4 + length)[None], **options)
    return int(counter.get_total_flops())


def config_of(path: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
    return config


@pytest.mark.parametrize("name", ["bert", "xlm-roberta"])
def test_an_encoders_operations_are_those_that_torch_counts(tiny: TinyModels, name: str) -> None:
    path = tiny(name)
    model = AutoModelForSequenceClassification.from_pretrained(path, attn_implementation="eager").eval()

    expected = [counted_operations(model, length) for length in (5, 40)]

    assert [work(config_of(path), [length]).full for length in (5, 40)] == expected
    assert work(config_of(path), [5, 40]).full == sum(expected)
    assert work(config_of(path), [5, 40]).reduced < sum(expected)


@pytest.mark.parametrize("rows", [0, 1, 2048, 5000])
def test_products_have_as_many_operations_as_they_stand_for(rows: int) -> None:
    config = {"hidden_size": 32, "intermediate_size": 64}
    of_a_row = 2 * 32 * (4 * 32 + 2 * 64)
    products = Products(config)
    with FlopCounterMode(display=False) as counter:
        products.run(rows * of_a_row + of_a_row // 2)
    assert counter.get_total_flops() == rows * of_a_row


@pytest.mark.parametrize("name", ["gemma", "llama"])
def test_a_causal_models_operations_leave_out_the_vocabulary_and_what_is_masked(tiny: TinyModels, name: str) -> None:
    path, length = tiny(name), 40
    config = config_of(path)
    model = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager").eval()

    everything = counted_operations(model, length, use_cache=False, logits_to_keep=1)

    other_rows = 2 * config["hidden_size"] * (config["vocab_size"] - 1)
    masked = config["num_hidden_layers"] * 4 * config["num_attention_heads"] * config["head_dim"] * 40 * 39 // 2
    assert work(config, [length]).full == everything - other_rows - masked


def test_lengths_follow_the_distribution_that_is_written_down() -> None:
    lengths = workloads.pair_lengths(2000)

    assert median(lengths) == pytest.approx(113, abs=1)
    assert sorted(lengths)[1800] == pytest.approx(275, abs=2)
    assert max(lengths) == workloads.MAX_LENGTH
    assert max(workloads.pair_lengths(2000, workloads.LONGEST_CAUSAL)) == workloads.LONGEST_CAUSAL


def test_texts_have_these_lengths_and_are_the_same_every_time() -> None:
    model = locate("quickstart")
    tokenizer = tokenizer_of(model)
    workload = workloads.parse("2x20")

    requests = workload.requests(tokenizer)
    lengths = [len(pair_ids(tokenizer, model.kind, query, text)) for query, texts in requests for text in texts]

    assert [len(texts) for _, texts in requests] == [20, 20]
    # A cut inside a word can change how its pieces are told apart.
    assert sorted(lengths) == pytest.approx(workloads.pair_lengths(40), abs=8)
    assert workloads.fingerprint(workload.requests(tokenizer)) == workloads.fingerprint(requests)


@pytest.mark.parametrize("name", ["", "5", "4x", "x5", "0x5", "4x-5", "axb"])
def test_a_workload_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="QUERIESxPASSAGES"):
        workloads.parse(name)


def test_ndcg_is_that_of_ir_measures() -> None:
    grades = {"a": 0.0, "b": 3.0, "c": 1.0, "d": 0.0, "not retrieved": 2.0}
    names, scores = ["a", "b", "c", "d"], [0.5, 0.1, 2.0, -1.0]
    request = judged.JudgedRequest("q", names, [grades[name] for name in names], sorted(grades.values(), reverse=True))

    run = {"q": dict(zip(names, scores, strict=True))}
    qrels = {"q": {name: int(grade) for name, grade in grades.items()}}
    expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]

    assert judged.ndcg(request, scores) == pytest.approx(expected)


def test_spearman_is_of_ranks_and_ties_share_theirs() -> None:
    assert judged.spearman([1, 2, 3, 4], [0.1, 0.2, 5.0, 90.0]) == pytest.approx(1)
    assert judged.spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert judged.spearman([1, 1, 2], [3, 3, 4]) == pytest.approx(1)
    assert judged.spearman([1, 2, 3], [1, 1, 2]) == pytest.approx(0.8660254)


@pytest.mark.timeout(400)  # several imports of torch and its peers, on however busy a machine
def test_a_small_comparison_from_end_to_end(tmp_path: Path) -> None:
    build(Spec("bert", bert_tokenizer, {**SIZES, "max_position_embeddings": 512}), tmp_path / "model")
    asked = ["sentence-transformers", "FlagEmbedding"]
    options = ["--models", str(tmp_path / "model"), "--workloads", "2x3", "--peers", *asked]
    options += ["--repeats", "1", "--threads", "1", "--memory", "none", "--out", str(tmp_path / "out.json")]

    subprocess.run(
        [sys.executable, "-m", "benchmarks.peers", *options], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    text = (tmp_path / "out.json").read_text(encoding="utf-8")
    result = json.loads(text)
    rows = {row["system"]: row for row in result["rows"]}

    assert set(rows) == {*asked, "this package", "one by one"}
    assert str(tmp_path) not in text
    assert rows["FlagEmbedding"]["failure"] or rows["FlagEmbedding"]["pairs_per_second"]
    for name in ("this package", "sentence-transformers"):
        assert not rows[name]["failure"]
        assert rows[name]["pairs"] == 6
        assert rows[name]["score_difference"] < 1e-4
    assert rows["this package"]["computed_per_real_token"] == 1
    assert rows["sentence-transformers"]["computed_per_real_token"] > 1
    assert rows["one by one"]["computed_per_real_token"] == 1
    (ratio,) = result["ratios"]
    assert ratio["times_faster"].keys() == rows.keys() - {"this package"} - (
        {"FlagEmbedding"} if rows["FlagEmbedding"]["failure"] else set()
    )


def test_half_precision_is_measured_on_the_first_candidates(tmp_path: Path) -> None:
    requests = precision.read(write_folder(tmp_path / "small"), 2, 2)
    assert requests == [
        (QUERIES["berlin"], [CORPUS["new-york"], CORPUS["museums"]]),
        (QUERIES["unjudged"], [CORPUS["new-york"]]),
    ]


def test_windows_are_measured_on_questions_that_have_a_relevant_candidate(tmp_path: Path) -> None:
    options = Namespace(data=write_folder(tmp_path / "small"), queries=2, depth=3, join_titles=False)
    found = long_passages.read(options)
    assert [query.text for query in found.queries] == [QUERIES["berlin"], QUERIES["panda"]]
    assert found.candidates == [[hit.passage_id for hit in RUN[query]] for query in ("berlin", "panda")]
    assert found.texts == CORPUS


def test_passages_of_one_title_can_be_one_document(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "small")
    corpus = [{"_id": name, "title": name[:1], "text": text} for name, text in CORPUS.items()]
    lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in corpus)
    (folder / "corpus.jsonl").write_text(lines, encoding="utf-8")
    found = long_passages.read(Namespace(data=folder, queries=2, depth=3, join_titles=True))
    assert found.texts["p"] == f"{CORPUS['population']}\n{CORPUS['panda']}"
    assert found.candidates == [["n", "m", "p"], ["n", "b", "p"]]
    assert found.queries[0].grades == {"p": 2, "m": 1}
