"""A small rerank server for tests: real HTTP, real scores of a small model, faults on demand.

It answers as Text Embeddings Inference, infinity, vLLM, Jina's and Cohere's services do: their
paths, request fields, limits, error bodies and score scales, as read from their code.
"""

from __future__ import annotations

import json
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from flag_rerank_integrations import RemoteReranker, Reranker

Json = Any
KINDS = ("tei", "infinity", "vllm", "jina", "cohere")
PATHS = {
    "tei": ("/rerank",),
    "infinity": ("/rerank",),
    "vllm": ("/rerank", "/v1/rerank", "/v2/rerank", "/score", "/v1/score"),
    "jina": ("/v1/rerank",),
    "cohere": ("/v2/rerank",),
}


class RefusalError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, body: Json) -> None:
        super().__init__(status, body)
        self.status, self.body = status, body


class RerankServer:
    """One server of one kind.

    Args:
        reranker: Scores; its scores must be logits.
        kind: What it answers as.
        key: The API key it wants; None wants none.
        limit: Most passages of one request; None is no limit.
        payload: Most bytes of one request.
        version: What it says its version is.
    """

    def __init__(
        self,
        reranker: Reranker,
        kind: str,
        *,
        key: str | None = None,
        limit: int | None = None,
        payload: int = 2_000_000,
        version: str = "0.33.0",
    ) -> None:
        self.reranker, self.kind, self.key = reranker, kind, key
        self.limit, self.payload, self.version = limit, payload, version
        self.models = {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
        self.bodies: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.seen: list[str] = []
        self.faults: deque[Callable[[Any], None]] = deque()
        self.gate = threading.Event()
        self.gate.set()
        self.most_at_once = self.at_once = 0
        self._lock = threading.Lock()
        owner = self

        class Handler(_Handler):
            server_of = owner

        class Server(ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

        self._http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def start(self) -> None:
        """Serve from a thread."""
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Let go whoever is held, and stop."""
        self.gate.set()
        self._http.shutdown()
        self._http.server_close()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count who is inside, and hold them at the gate."""
        with self._lock:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.gate.wait(30)
            yield
        finally:
            with self._lock:
                self.at_once -= 1

    def admit(self, key: str | None) -> None:
        """Refuse a request without the key; the answer repeats what was sent, as some servers do."""
        if self.key is not None and key != f"Bearer {self.key}":
            raise RefusalError(401, {"error": f"Unauthorized: {key} is no valid key"})

    def about(self, path: str) -> Json:
        """Answer a GET request."""
        pages = {
            ("tei", "/info"): {
                "model_id": "tiny",
                "model_type": self.models,
                "max_client_batch_size": self.limit or 32,
            },
            ("vllm", "/version"): {"version": self.version},
            ("vllm", "/v1/models"): {"object": "list", "data": [{"id": "tiny", "owned_by": "vllm"}]},
            ("infinity", "/models"): {"data": [{"id": "tiny", "owned_by": "infinity", "capabilities": ["rerank"]}]},
        }
        if (self.kind, path) not in pages:
            raise RefusalError(404, {"detail": "Not Found"})
        return pages[self.kind, path]

    def answer(self, path: str, body: Json) -> Json:
        """Answer a POST request."""
        if path not in PATHS[self.kind]:
            raise RefusalError(404, {"detail": "Not Found"})
        return getattr(self, f"_{self.kind}")(path, body)

    def _tei(self, _: str, body: Json) -> Json:
        texts = body["texts"]
        if not texts or len(texts) > (self.limit or 32):
            said = f"batch size {len(texts)} > maximum allowed batch size {self.limit or 32}"
            raise RefusalError(413, {"error": said, "error_type": "Validation"})
        logits, cut = self._scored(body["query"], texts)
        if any(cut) and not body["truncate"]:
            raise RefusalError(413, {"error": "`inputs` must have less than 64 tokens", "error_type": "Validation"})
        scores = logits if body.get("raw_scores", False) else list(map(_sigmoid, logits))
        return _best_first([{"index": i, "score": score} for i, score in enumerate(scores)], "score")

    def _infinity(self, _: str, body: Json) -> Json:
        documents = body["documents"]
        if not 1 <= len(documents) <= (self.limit or 2048):
            said = f"List should have at most {self.limit or 2048} items after validation, not {len(documents)}"
            raise RefusalError(
                422, {"detail": [{"type": "too_long", "loc": ["body", "documents"], "msg": said, "input": []}]}
            )
        logits, _cut = self._scored(body["query"], documents)
        scores = logits if body.get("raw_scores", False) else list(map(_sigmoid, logits))
        return {"object": "rerank", "model": "tiny", "results": _results(scores)[: body.get("top_n")]}

    def _vllm(self, path: str, body: Json) -> Json:
        if body.get("model") not in (None, "tiny"):
            raise _of_vllm(404, f"The model `{body['model']}` does not exist.")
        is_score = path.endswith("/score")
        query, documents = (body["text_1"], body["text_2"]) if is_score else (body["query"], body["documents"])
        logits, cut = self._scored(query, documents)
        if any(cut) and body.get("truncate_prompt_tokens") != -1:
            raise _of_vllm(400, "This model's maximum context length is 64 tokens.")
        scores = logits if body.get("use_activation") is False else list(map(_sigmoid, logits))
        if is_score:
            data = [{"index": i, "object": "score", "score": score} for i, score in enumerate(scores)]
            return {"object": "list", "model": "tiny", "data": data}
        results = [{**result, "document": {"text": documents[result["index"]]}} for result in _results(scores)]
        return {"model": "tiny", "results": results[: body.get("top_n") or None]}

    def _jina(self, path: str, body: Json) -> Json:
        return {"model": body["model"], "usage": {"total_tokens": 1}, **self._cohere(path, body)}

    def _cohere(self, _: str, body: Json) -> Json:
        if "model" not in body:
            raise RefusalError(400, {"message": "model is required"})
        logits, _cut = self._scored(body["query"], body["documents"])
        return {"results": _results(list(map(_sigmoid, logits)))[: body.get("top_n")]}

    def _scored(self, query: str, texts: list[str]) -> tuple[list[float], list[int]]:
        ranking = sorted(self.reranker.rank(query, texts), key=lambda passage: passage.index)
        return [passage.score for passage in ranking], [passage.truncated_tokens or 0 for passage in ranking]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet an answer: two would wait for an acknowledgement in between
    server_of: RerankServer

    def do_GET(self) -> None:
        self._answer(lambda server: server.about(self.path))

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server_of
        server.headers.append(dict(self.headers))
        with server.counted():
            fault = server.faults.popleft() if server.faults else None
            if fault is not None:
                fault(self)
                return
            self._answer(lambda server: self._scores(server, content))

    def _scores(self, server: RerankServer, content: bytes) -> Json:
        if len(content) > server.payload:
            raise RefusalError(413, None)
        body = json.loads(content)
        server.bodies.append(body)
        return server.answer(self.path, body)

    def _answer(self, how: Callable[[RerankServer], Json]) -> None:
        server = self.server_of
        server.seen.append(self.path)
        guarded = server.kind != "vllm" or self.path.startswith(("/v1", "/v2"))
        try:
            if guarded:
                server.admit(self.headers["Authorization"])
            self.reply(200, how(server))
        except RefusalError as refusal:
            self.reply(refusal.status, refusal.body)

    def reply(self, status: int, body: Json, **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


Serve = Callable[..., RerankServer]


@contextmanager
def servers(reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Starts servers when called with a kind and options, and stops them at the end."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    started: list[RerankServer] = []

    def start(kind: str, **options: Any) -> RerankServer:
        started.append(RerankServer(reranker, kind, **options))
        started[-1].start()
        return started[-1]

    try:
        yield start
    finally:
        for server in started:
            server.stop()


def asking(server: RerankServer, **options: Any) -> RemoteReranker:
    """A reranker that knows what it talks to."""
    return RemoteReranker(server.url, **{"form": server.kind, "model": "tiny", **options})


def status(code: int, body: Json = None, **headers: str) -> Callable[[Any], None]:
    """A fault: answer with a status."""
    return lambda handler: handler.reply(code, {"error": "out of order"} if body is None else body, **headers)


def drop(handler: Any) -> None:
    """A fault: close the connection instead of an answer."""
    handler.wfile.flush()
    handler.close_connection = True
    handler.connection.shutdown(2)


def break_off(handler: Any) -> None:
    """A fault: close the connection in the middle of an answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"results": [')
    drop(handler)


def _best_first(entries: list[Json], key: str) -> list[Json]:
    return sorted(entries, key=lambda entry: -entry[key])


def _results(scores: list[float]) -> list[Json]:
    return _best_first([{"index": i, "relevance_score": score} for i, score in enumerate(scores)], "relevance_score")


def _of_vllm(code: int, message: str) -> RefusalError:
    return RefusalError(code, {"error": {"message": message, "type": "BadRequestError", "param": None, "code": code}})


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))
