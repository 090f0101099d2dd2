"""A stand-in for the Hugging Face Hub on this machine: repositories in memory, uploads as commits, downloads."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0" * 39 + "1"


class Hub:
    """What the server knows: repository -> path -> content, and every request."""

    def __init__(self):
        self.files, self.private, self.requests, self.broken = {}, {}, [], False
        self.url = ""


def handler(hub):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def body(self):
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def answer(self, value, status=200, headers=()):
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in {"Content-Length": str(len(content)), **dict(headers)}.items():
                self.send_header(name, text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def do_POST(self):
            body = self.body()
            hub.requests.append((self.path, self.headers.get("Authorization")))
            if hub.broken and "/commit/" in self.path:
                self.answer({"error": "the disk of the Hub is full"}, 500)
            elif self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'me'}/{asked['name']}"
                hub.files.setdefault(name, {})
                hub.private[name] = asked.get("private") or asked.get("visibility") == "private"  # hub 0.x, later
                self.answer({"url": f"{hub.url}/{name}"})
            elif match := re.fullmatch(r"/api/models/(.+)/preupload/main", self.path.split("?")[0]):
                paths = [file["path"] for file in json.loads(body)["files"]]
                self.answer(
                    {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
                )
            elif match := re.fullmatch(r"/api/models/(.+)/commit/main", self.path.split("?")[0]):
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        content = base64.b64decode(line["value"]["content"])
                        hub.files[match[1]][line["value"]["path"]] = content
                self.answer({"commitUrl": f"{hub.url}/{match[1]}/commit/{COMMIT}", "commitOid": COMMIT})
            else:  # validation of the card's metadata
                self.answer({"errors": [], "warnings": []})

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.split("?")[0]
            if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
                content = hub.files.get(match[1], {}).get(match[2])
                if content is None:
                    code = "EntryNotFound" if match[1] in hub.files else "RepoNotFound"
                    self.answer({}, 404, {"X-Error-Code": code, "X-Repo-Commit": COMMIT})
                else:
                    tag = hashlib.sha1(content).hexdigest()
                    self.answer(content, headers={"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})
            elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path):
                listing = [{"type": "file", "path": name, "size": 1} for name in hub.files.get(match[1], {})]
                self.answer(listing if match[2] else {"id": match[1], "sha": COMMIT, "siblings": []})
            else:
                self.answer({}, 404)

    return Handler


@contextmanager
def local_hub():
    """Runs the stand-in; ``hub.url`` is its endpoint."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
