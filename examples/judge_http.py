#!/usr/bin/env python3
"""A reward for the type `http`, on port 8765 of this machine: JSON in, scores out. It rewards small PNG files.

    rewards: {http: {url: "http://127.0.0.1:8765/score"}}

A request is {"version": 1, "items": [{"prompt", "meta", "image"}, ...]}, images as PNG in base64; the answer is
{"scores": [...]}, for each item a number, or {"error": "why"}. Any status but 2xx is a failure; 429 and 5xx are tried again.
"""

import base64
import http.server
import json


def judge(item):
    png = base64.b64decode(item["image"])
    return 1 / (1 + len(png) / 1000)


class Judge(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open
    wbufsize = -1  # an answer is one packet: of two, the second would wait 40 ms for the first to be acknowledged

    def do_POST(self):
        items = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["items"]
        answer = json.dumps({"scores": [judge(item) for item in items]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        pass


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", 8765), Judge).serve_forever()
