"""The Hugging Face hub on 127.0.0.1: the requests by which its own client downloads files and pushes a repository."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator

from huggingface_hub import constants

TOKEN = "hf_of_the_tests"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """The stored repositories.

    Attributes:
        endpoint: what HF_ENDPOINT has to be.
        files: (ORG/REPO, path) -> bytes.
        private: ORG/REPO -> whether it was created as private.
        refusal: status that answers every request to create a repository; 0: it is created if the token is right.
        requests: (method, path) of all requests.
    """

    def __init__(self):
        self.endpoint, self.files, self.private, self.refusal, self.requests = "", {}, {}, 0, []


def use(monkeypatch, endpoint: str, cache: str) -> None:
    """What HF_ENDPOINT and HF_HUB_CACHE do, in a process that has loaded the client already."""
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    """A hub, until the block ends."""
    hub = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: _Handler(hub, *args))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, hub: Hub, *args):
        self._hub = hub
        super().__init__(*args)

    def log_message(self, *args) -> None:
        """Nothing: the tests read `requests`."""

    def do_HEAD(self) -> None:
        self._send_file(with_body=False)

    def do_GET(self) -> None:
        self._send_file(with_body=True)

    def do_POST(self) -> None:
        self._hub.requests.append(("POST", self.path))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        repository, action = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path).groups()
        if action == "preupload":
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                     for file in json.loads(body)["files"]]  # fmt: skip
            return self._answer(200, {"files": modes})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self._hub.files[repository, line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        url = f"{self._hub.endpoint}/{repository}/commit/{COMMIT}"
        return self._answer(200, {"commitUrl": url, "commitOid": COMMIT, "success": True})

    def _create(self, asked: dict) -> None:
        if self._hub.refusal:
            return self._answer(self._hub.refusal, {"error": "You don't have the rights to do this."})
        name = f"{asked['organization']}/{asked['name']}"
        self._hub.private[name] = asked.get("visibility") == "private"
        return self._answer(200, {"url": f"{self._hub.endpoint}/{name}", "name": name})

    def _send_file(self, with_body: bool) -> None:
        self._hub.requests.append((self.command, self.path))
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        data = self._hub.files.get(found.groups()) if found else None
        if data is None:
            return self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}, with_body)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        return self._answer(200, data, headers, with_body)

    def _answer(self, status: int, content, headers=None, with_body: bool = True) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(data)
