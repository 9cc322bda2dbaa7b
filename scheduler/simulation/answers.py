"""Answers: small, valid and deterministic answers to inference requests."""

import base64
import struct
import time
from collections.abc import Callable
from typing import Any

from scheduler.simulation.generated_text import GeneratedText, listed, number, prompt_tokens, usage, words
from scheduler.simulation.http_request import Request
from scheduler.simulation.reply import Reply
from scheduler.simulation.settings import SimulationSettings

_DIMENSIONS = 8
_PART_BYTES = 65_536  # a huge body leaves in parts of this size


class Answers:
    """Answers by path. The text is always `t0 t1 t2 ...`, one word a token."""

    def __init__(self, settings: SimulationSettings) -> None:
        self._settings = settings
        self._by_path: dict[str, Callable[[Request, int], Reply]] = {
            "/v1/chat/completions": self._generate,
            "/v1/completions": self._generate,
            "/v1/embeddings": self._embed,
            "/v1/audio/transcriptions": self._transcribe,
            "/tokenize": self._tokenize,
            "/detokenize": self._detokenize,
            "/rerank": self._rerank,
            "/v1/rerank": self._rerank,
            "/v2/rerank": self._rerank,
            "/score": self._score,
            "/v1/score": self._score,
            "/pooling": self._pool,
            "/classify": self._classify,
        }

    def is_inference(self, request: Request) -> bool:
        """True for what would cost a GPU: each POST to /v1/... and to the engines' root paths."""
        return request.method == "POST" and (request.path.startswith("/v1/") or request.path in self._by_path)

    def answer(self, request: Request, n: int) -> Reply:
        """The answer to the n-th inference request. Raises BadRequest for fields that make no sense."""
        key = self._settings.api_key
        if key is not None and request.header("authorization") != f"Bearer {key}":
            return Reply.of_error(401, "Unauthorized")
        is_json = (request.header("content-type") or "").startswith("application/json")
        if is_json and not request.document and request.body.strip() != b"{}":
            return Reply.of_error(400, "The body is no JSON object.")
        model = request.model
        if model is not None and model not in self._settings.models:
            return Reply.of_error(404, f"The model `{model}` does not exist.", "model", "NotFoundError")
        status = request.document.get("sim_status")
        if status is not None:
            return Reply.of_error(int(status), f"simulated status {status}")
        return self._by_path.get(request.path, self._echo)(request, n)

    # -- text -------------------------------------------------------------------------------------

    def _generate(self, request: Request, n: int) -> Reply:
        text = GeneratedText(request, n, self._settings)
        if text.is_stream:
            headers = [("content-type", "text/event-stream; charset=utf-8")]
            return Reply(200, headers, text.events(), None, ttft_s=text.ttft_s, gap_s=text.gap_s, is_event_stream=True)
        body = text.document()
        parts = [(body[at : at + _PART_BYTES], False) for at in range(0, len(body), _PART_BYTES)]
        delay_s = text.ttft_s + text.gap_s * (text.tokens - 1)
        return Reply(200, [("content-type", "application/json")], parts, len(body), delay_s=delay_s)

    # -- the rest ---------------------------------------------------------------------------------

    def _after_prefill(self, request: Request, document: dict[str, Any]) -> Reply:
        return Reply.of_json(document, delay_s=number(request, "sim_ttft_ms", self._settings.ttft_s * 1000) / 1000)

    def _model(self, request: Request) -> str:
        return request.model or self._settings.models[0]

    def _embed(self, request: Request, n: int) -> Reply:
        inputs = listed(request.document.get("input", ""))
        dimensions = int(number(request, "dimensions", _DIMENSIONS))
        data = []
        for index, item in enumerate(inputs):
            vector: Any = [round((len(str(item)) + at) / 1000, 3) for at in range(dimensions)]
            if request.document.get("encoding_format") == "base64":
                vector = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode()
            data.append({"object": "embedding", "index": index, "embedding": vector})
        tokens = usage(sum(words(item) for item in inputs), 0)
        return self._after_prefill(
            request, {"object": "list", "data": data, "model": self._model(request), "usage": tokens}
        )

    def _transcribe(self, request: Request, n: int) -> Reply:
        return self._after_prefill(request, {"text": "t0 t1 t2 ", "sha256": request.sha256, "bytes": len(request.body)})

    def _echo(self, request: Request, n: int) -> Reply:
        return self._after_prefill(
            request, {"path": request.path, "bytes": len(request.body), "sha256": request.sha256}
        )

    def _tokenize(self, request: Request, n: int) -> Reply:
        count = prompt_tokens(request)
        return Reply.of_json({"count": count, "max_model_len": 8192, "tokens": list(range(count))})

    def _detokenize(self, request: Request, n: int) -> Reply:
        return Reply.of_json({"prompt": "".join(f"t{token} " for token in listed(request.document.get("tokens", [])))})

    def _rerank(self, request: Request, n: int) -> Reply:
        documents = listed(request.document.get("documents", []))
        results = [
            {"index": index, "document": {"text": item}, "relevance_score": round(1 / (index + 1), 6)}
            for index, item in enumerate(documents)
        ]
        tokens = {"total_tokens": sum(words(item) for item in documents)}
        return self._after_prefill(
            request, {"id": f"rerank-sim-{n}", "model": self._model(request), "usage": tokens, "results": results}
        )

    def _score(self, request: Request, n: int) -> Reply:
        items = listed(request.document.get("text_2", ""))
        data = [{"index": index, "object": "score", "score": round(1 / (index + 1), 6)} for index in range(len(items))]
        return self._listing(request, f"score-sim-{n}", data, sum(words(item) for item in items))

    def _pool(self, request: Request, n: int) -> Reply:
        items = listed(request.document.get("input", ""))
        data = [{"index": index, "object": "pooling", "data": [0.1, 0.2]} for index in range(len(items))]
        return self._listing(request, f"pool-sim-{n}", data, sum(words(item) for item in items))

    def _classify(self, request: Request, n: int) -> Reply:
        items = listed(request.document.get("input", ""))
        data = [
            {"index": index, "label": "LABEL_0", "probs": [0.75, 0.25], "num_classes": 2} for index in range(len(items))
        ]
        return self._listing(request, f"classify-sim-{n}", data, sum(words(item) for item in items))

    def _listing(self, request: Request, answer_id: str, data: list[Any], tokens: int) -> Reply:
        document = {"id": answer_id, "object": "list", "created": int(time.time()), "model": self._model(request)}
        return self._after_prefill(request, {**document, "data": data, "usage": usage(tokens, 0)})
