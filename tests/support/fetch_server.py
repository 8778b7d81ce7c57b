"""A web server for the tests of fetching: it resumes, or not; cuts; refuses; changes its mind."""

from __future__ import annotations

import contextlib
import hashlib
import re
from http.server import BaseHTTPRequestHandler


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.files`` as ``server.behaviour`` says; notes every request's Range."""

    def do_HEAD(self) -> None:
        """As the Hub answers: with the commit and the file's mark; or that it wants a token."""
        about = self.server.about
        about.tokens.append(self.headers.get("Authorization"))
        if about.token and self.headers.get("Authorization") != f"Bearer {about.token}":
            self._refuse(401, about.refusal)
        elif self.path not in about.files:
            self._refuse(404, "EntryNotFound")
        else:
            body = about.files[self.path]
            self.send_response(200)
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("ETag", '"' + hashlib.md5(body).hexdigest() + '"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        about = self.server.about
        about.requests.append((self.path, self.headers.get("Range")))
        if about.status:
            status = about.status.pop(0) if isinstance(about.status, list) else about.status
            if status != 200:
                self.send_error(status)
                return
        if self.path not in about.files:
            self.send_error(404)
            return
        body = about.files[self.path]
        etag = '"' + hashlib.md5(body).hexdigest() + '"'
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and about.ranges and self.headers.get("If-Range", etag) == etag:
            start = int(asked[1])
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", about.type)
        if about.length:
            self.send_header("Content-Length", str(len(body) - start) if about.length is True else about.length)
        if about.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        if about.etag:
            self.send_header("ETag", f"W/{etag}" if about.etag == "weak" else etag)
        self.end_headers()
        cut = about.cuts.pop(0) if about.cuts else None
        with contextlib.suppress(OSError):
            self.wfile.write(body[start : start + cut] if cut is not None else body[start:])
        self.close_connection = True

    def log_message(self, *args) -> None:
        pass
