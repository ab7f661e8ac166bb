"""A completion server of a process of its own, for the tests: a tiny model behind the interface, and ways to misbehave.

    python completions.py FOLDER        serves the model saved there; prints its port

The first part of the path says how: `/echo/v1` as vLLM and llama-cpp-python answer, `/prompt/v1` by vLLM's prompt_logprobs
alone, `/bare/v1` as echo but without top_logprobs, `/partly/v1` with some of them, `/generated/v1` as llama.cpp
(log-probabilities of the generated token only), `/ignores/v1` as transformers serve;
`/locked/v1` wants the key "open-sesame" and repeats a wrong one; `/busy3/v1` refuses each request three times with 429,
`/shaky/v1` breaks every second request, `/down/v1` has errors, `/stalls/v1` waits, `/slow/v1` takes its time, `/html/v1`,
`/list/v1`, `/empty/v1`, `/short/v1`, `/nan/v1`, `/positive/v1`, `/other/v1` (another model), `/lost/v1` close the line.
"""

import json
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import torch
import transformers

KEY = "open-sesame"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: ClassVar[dict[str, int]] = {}
    running: ClassVar[dict[str, int]] = {}
    most: ClassVar[dict[str, int]] = {}
    lock = threading.Lock()
    model: Any = None
    tokenizer: Any = None

    def log_message(self, *given: Any) -> None:
        return

    def do_GET(self) -> None:
        """What was counted."""
        self._send(200, {"seen": dict(self.seen), "most": dict(self.most)})

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"]))
        way = self.path.split("/")[1]
        with self.lock:
            key = text.decode() + way
            self.seen[way] = self.seen.get(way, 0) + 1
            times = self.seen[key] = self.seen.get(key, 0) + 1
            self.running[way] = self.running.get(way, 0) + 1
            self.most[way] = max(self.most.get(way, 0), self.running[way])
        try:
            self._answer(way, json.loads(text), times)
        finally:
            with self.lock:
                self.running[way] -= 1

    def _answer(self, way: str, body: dict[str, Any], times: int) -> None:
        given = self.headers.get("Authorization", "")
        if way == "locked" and given != f"Bearer {KEY}":
            return self._send(401, {"error": {"message": f"Incorrect API key provided: {given}"}})
        if way == "down" or (way == "shaky" and times == 1):
            return self._send(500, {"error": {"message": f"boom {given}"}})
        if way == "busy3" and times <= 3:
            return self._send(429, {"detail": "slow down"}, {"Retry-After": "0.05"})
        if way == "away":
            return self._send(503, {"detail": "maintenance"}, {"Retry-After": "7200"})
        if way == "moved":
            return self._send(302, {}, {"Location": "http://127.0.0.1:1/v1/completions"})
        if way == "lost":
            return self.connection.shutdown(socket.SHUT_RDWR)
        if way == "stalls":
            return time.sleep(3)
        if way == "slow":
            time.sleep(0.05)
        if way == "html":
            return self._raw(200, b"<html>welcome</html>")
        if way == "list":
            return self._send(200, [1, 2])
        if way == "empty":
            return self._send(200, {"object": "text_completion"})
        if body["model"] != "tiny":
            return self._send(404, {"error": {"message": f"The model `{body['model']}` does not exist."}})
        if way == "prompt" and body.get("echo"):
            return self._send(400, {"error": {"message": "Only no echo is supported"}})
        return self._send(200, self._completion(way, body))

    def _completion(self, way: str, body: dict[str, Any]) -> dict[str, Any]:
        prompt, tokenizer = body["prompt"], self.tokenizer
        ids = tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else list(prompt)
        count = len(ids)
        with torch.no_grad():
            for _ in range(body["max_tokens"]):
                logp = self.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
                ids.append(int(logp[-1].argmax()))
        values: list[Any] = [None] + [float(logp[t - 1, ids[t]]) for t in range(1, len(ids))]
        words = [tokenizer.decode([token]) for token in ids]
        likeliest = [None] + [(int(row.argmax()), float(row.max())) for row in logp[: len(ids) - 1]]
        if way == "other":
            values = [None] + [value - 1 for value in values[1:]]
        if way in ("generated", "ignores"):
            values, words = values[count:], words[count:]
        if way == "short" and count > 30:
            values, words = values[:-3], words[:-3]
        if way == "nan":
            values[-3] = float("nan")
        if way == "positive":
            values[-3] = 0.5
        top: list[Any] = [None if each is None else {tokenizer.decode([each[0]]): each[1]} for each in likeliest]
        if way == "partly":
            top[-2] = None
        choice: dict[str, Any] = {"index": 0, "text": tokenizer.decode(ids[count:]), "logprobs": None}
        if "prompt_logprobs" in body and way == "prompt":
            ranks = [1 + int((logp[t - 1] > logp[t - 1, ids[t]]).sum()) for t in range(1, count)]
            each = zip(ids[1:count], values[1:count], words[1:count], ranks, strict=True)
            choice["prompt_logprobs"] = [None] + [
                {str(i): {"logprob": v, "rank": r, "decoded_token": w}} for i, v, w, r in each
            ]
        elif way != "ignores" and body.get("echo"):
            choice["logprobs"] = {"tokens": words, "token_logprobs": values}
            if way != "bare":
                choice["logprobs"]["top_logprobs"] = top[-len(values) :]
        usage = {"prompt_tokens": count, "completion_tokens": len(ids) - count}
        return {"choices": [choice], "usage": usage}

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        self._raw(status, json.dumps(content).encode(), headers)

    def _raw(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    torch.set_num_threads(1)
    folder = sys.argv[1]
    Handler.model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    Handler.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
