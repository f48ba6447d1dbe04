"""Google Cloud Storage on 127.0.0.1: the parts that TensorFlow's file system, TensorStore and Google's client use.

Orbax uses both TensorStore (TENSORSTORE_GCS_HTTP_URL) and Google's client (STORAGE_EMULATOR_HOST). These two variables
set the server's address, and both use plain HTTP. TensorFlow only uses Google's address, so it connects through a proxy
(https_proxy). This server is also that proxy. It answers in Google's name, with a certificate that TensorFlow trusts
because of CURL_CA_BUNDLE.
"""

import contextlib
import http.server
import json
import pathlib
import random
import re
import ssl
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator

HOSTS = ("www.googleapis.com", "storage.googleapis.com", "oauth2.googleapis.com")


class Storage:
    """The stored objects, and the behaviour of the server.

    Attributes:
        objects: (bucket, name) -> (bytes, generation).
        unavailable: share of the requests that are answered with 503.
        read_only: requests that would change an object are answered with 403.
        requests: number of requests; `refused` of them were answered with 503.
        environment: the environment variables that a process needs to use this server.
    """

    def __init__(self, seed: int):
        self.objects, self.sessions = {}, {}
        self.unavailable, self.requests, self.refused, self.read_only = 0.0, 0, 0, False
        self.environment = {}
        self.lock = threading.RLock()
        self._random = random.Random(seed)
        self._generation = 0

    def put(self, bucket: str, name: str, data: bytes) -> dict:
        """Stores an object and returns its metadata as in the API."""
        with self.lock:
            self._generation += 1
            self.objects[bucket, name] = (data, self._generation)
            return self.describe(bucket, name)

    def describe(self, bucket: str, name: str) -> dict:
        data, generation = self.objects[bucket, name]
        return {"kind": "storage#object", "bucket": bucket, "name": name, "size": str(len(data)),
                "generation": str(generation), "metageneration": "1", "updated": "2020-01-01T00:00:00.000Z",
                "timeCreated": "2020-01-01T00:00:00.000Z"}  # fmt: skip

    def list(self, bucket: str, prefix: str, delimiter: str) -> dict:
        """The API's listing of a bucket, in a single page."""
        items, prefixes = [], set()
        with self.lock:
            for place, name in sorted(self.objects):
                if place != bucket or not name.startswith(prefix):
                    continue
                head, found, _ = name[len(prefix) :].partition(delimiter or "\0")
                if found:
                    prefixes.add(prefix + head + delimiter)
                else:
                    items.append(self.describe(bucket, name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}

    def is_unavailable(self) -> bool:
        with self.lock:
            self.requests += 1
            unavailable = self._random.random() < self.unavailable
            self.refused += unavailable
            return unavailable


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def finish(self):
        super().finish()
        self.connection.close()  # the server only closes the original socket, not the TLS wrapper around it

    def do_CONNECT(self):  # as a proxy: all further requests of the client come to this server
        self.send_response(200)
        self.end_headers()
        self.wfile.flush()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def _serve(self):
        storage, body = self.server.storage, self._body()
        url = urllib.parse.urlsplit(self.path)
        query = {key: values[0] for key, values in urllib.parse.parse_qs(url.query).items()}
        if storage.is_unavailable():
            return self._answer(503, b"{}")
        if storage.read_only and self.command != "GET" and "/b/" in url.path:
            return self._answer(403, b'{"error": {"code": 403, "message": "no permission storage.objects.create"}}')
        for pattern, method, answer in _ROUTES:
            match = re.fullmatch(pattern, url.path)
            if match and method == self.command:
                return answer(self, storage, [urllib.parse.unquote(part) for part in match.groups()], query, body)
        return self._answer(501, f"{self.command} {self.path}".encode())

    do_GET = do_PUT = do_POST = do_DELETE = _serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") == "chunked":
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, content: bytes | dict = b"", **headers):
        content = json.dumps(content).encode() if isinstance(content, dict) else content
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _bucket(self, storage, parts, query, body):
        self._answer(200, {"kind": "storage#bucket", "name": parts[0]})

    def _layout(self, storage, parts, query, body):
        self._answer(200, {"kind": "storage#storageLayout", "bucket": parts[0],
                           "hierarchicalNamespace": {"enabled": False}})  # fmt: skip

    def _list(self, storage, parts, query, body):
        self._answer(200, storage.list(parts[0], query.get("prefix", ""), query.get("delimiter", "")))

    def _get(self, storage, parts, query, body):
        if tuple(parts) not in storage.objects:
            return self._answer(404, {"error": {"code": 404, "message": "No such object"}})
        if query.get("alt") == "media":
            return self._media(storage, parts, query, body)
        return self._answer(200, storage.describe(*parts))

    def _media(self, storage, parts, query, body):
        if tuple(parts) not in storage.objects:
            return self._answer(404)
        data, generation = storage.objects[tuple(parts)]
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        headers = {"x_goog_generation": str(generation), "Content_Type": "application/octet-stream"}
        if asked is None:
            return self._answer(200, data, **headers)
        start, end = int(asked[1]), min(int(asked[2] or len(data)), len(data) - 1)
        if start >= len(data):
            return self._answer(416)
        return self._answer(206, data[start : end + 1], Content_Range=f"bytes {start}-{end}/{len(data)}", **headers)

    def _upload(self, storage, parts, query, body):
        name = query["name"]
        if query["uploadType"] == "resumable":
            with storage.lock:
                session = f"{len(storage.sessions)}"
                storage.sessions[session] = (parts[0], name, bytearray())
            return self._answer(200, Location=f"https://www.googleapis.com/upload/session/{session}")
        expected = query.get("ifGenerationMatch")
        with storage.lock:
            current = storage.objects.get((parts[0], name), (b"", 0))[1]
            if expected is not None and int(expected) != current:
                return self._answer(412, {"error": {"code": 412}})
            return self._answer(200, storage.put(parts[0], name, body))

    def _resume(self, storage, parts, query, body):
        bucket, name, received = storage.sessions[parts[0]]
        start, total = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+)", self.headers["Content-Range"]).groups()
        if start is not None:
            received[int(start) :] = body
        if len(received) == int(total):
            return self._answer(200, storage.put(bucket, name, bytes(received)))
        headers = {"Range": f"bytes=0-{len(received) - 1}"} if received else {}
        return self._answer(308, **headers)

    def _delete(self, storage, parts, query, body):
        found = storage.objects.pop(tuple(parts), None)
        self._answer(204 if found else 404)

    def _copy(self, storage, parts, query, body):
        data, _ = storage.objects[tuple(parts[:2])]
        resource = storage.put(*parts[2:], data)
        self._answer(200, {"done": True, "resource": resource, "totalBytesRewritten": resource["size"],
                           "objectSize": resource["size"]})  # fmt: skip


_ROUTES = (
    (r"/storage/v1/b/([^/]+)/o", "GET", _Handler._list),
    (r"/storage/v1/b/([^/]+)", "GET", _Handler._bucket),
    (r"/storage/v1/b/([^/]+)/storageLayout", "GET", _Handler._layout),
    (r"/storage/v1/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)", "POST", _Handler._copy),
    (r"/storage/v1/b/([^/]+)/o/([^/]+)", "GET", _Handler._get),
    (r"/storage/v1/b/([^/]+)/o/([^/]+)", "DELETE", _Handler._delete),
    (r"/upload/storage/v1/b/([^/]+)/o", "POST", _Handler._upload),
    (r"/upload/session/(\d+)", "PUT", _Handler._resume),
    (r"/(?!storage/)([^/]+)/(.+)", "GET", _Handler._media),  # the form in which TensorFlow reads
)


@contextlib.contextmanager
def serve(folder: pathlib.Path, seed: int = 0) -> Iterator[Storage]:
    """Runs a server on a free port, with its certificate in `folder`."""
    storage = Storage(seed)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.storage, server.tls = storage, _certified(folder)
    address = f"http://127.0.0.1:{server.server_port}"
    storage.environment = {
        "TENSORSTORE_GCS_HTTP_URL": address,
        "https_proxy": address,
        "no_grpc_proxy": "127.0.0.1",  # the address at which hosts find each other
        "CURL_CA_BUNDLE": str(folder / "certificate.pem"),
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        "NO_GCE_CHECK": "true",
        "STORAGE_EMULATOR_HOST": address,
        "GOOGLE_CLOUD_PROJECT": "project",
    }
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield storage
    finally:
        server.shutdown()
        server.server_close()


def _certified(folder: pathlib.Path) -> ssl.SSLContext:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    names = ",".join(f"DNS:{host}" for host in HOSTS)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=fake", "-addext",
         f"subjectAltName={names}", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
