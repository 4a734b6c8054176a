#!/usr/bin/env python3
"""The bank's `rates` service: what an account's currency is worth.

It is an ordinary HTTP program of Python's standard library and knows nothing of the mesh. `mesh-runtime run` gives it one:
requests reach it on PORT after the caller's identity was checked, and http://accounts.mesh/ works because http_proxy, which
urllib honours, names the wrapper's egress.
"""

import json
import os
import signal
import sys
import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# What one euro is worth.
PER_EURO = {"EUR": 1.0, "USD": 1.0842, "GBP": 0.8517, "JPY": 169.85, "SEK": 11.49}


def currency_of(account, caller):
    """The currency of an account, asked of the service `accounts`, on behalf of the same caller."""
    request = urllib.request.Request(f"http://accounts.mesh/accounts/{account}")
    if caller is not None:
        request.add_header("x-customer", caller)
    with urllib.request.urlopen(request, timeout=2) as answer:
        return json.load(answer)["currency"]


class Rates(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.split("?", 1)[0]
        if path == "/healthz":
            return self.answer(200, {"ok": True})
        account = path.removeprefix("/rates/")
        if account == path or not account.isdigit() or not account.isascii():
            return self.answer(404, {"error": "GET /rates/{account}"})
        try:
            base = currency_of(account, self.headers.get("x-customer"))
        except urllib.error.HTTPError as refused:
            return self.answer(refused.code if refused.code in (403, 404) else 502, {"error": "accounts does not show this account"})
        except (OSError, ValueError, KeyError) as error:
            print(f"rates: asking accounts: {error}", file=sys.stderr)
            return self.answer(502, {"error": "accounts does not answer"})
        if base not in PER_EURO:
            return self.answer(404, {"error": f"no rates for {base}"})
        rates = {name: round(worth / PER_EURO[base], 4) for name, worth in PER_EURO.items() if name != base}
        return self.answer(200, {"base": base, "rates": rates})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *line):
        """The mesh writes the access log."""


def main():
    port = int(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PORT", "9100"))
    server = ThreadingHTTPServer(("127.0.0.1", port), Rates)
    # shutdown() waits for serve_forever(), which this signal interrupts: it has to run beside it.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"rates listens on http://127.0.0.1:{server.server_port}", file=sys.stderr)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
