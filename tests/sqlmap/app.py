#!/usr/bin/env python3
"""A web application with every mistake in it: what the attacker of run.py attacks.

    python3 tests/sqlmap/app.py --url postgres://acme:..@127.0.0.1:6432/shop --log FILE [--port 8080]

It is the application of one tenant (acme, number 1) and asks for that tenant's rows alone, but it glues what comes from the client
into its statements. /shown/PLACE answers with the rows, and with the text of errors; /hidden/PLACE tells one bit, "yes" or "no", and
makes no difference between no rows and an error. The places are in places.py. /stats tells what was counted.

It must be the same application through Bulkhead and directly: nothing in it knows which of both it talks to.
"""

import argparse
import html
import json
import queue
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import psycopg2
from psycopg2 import extensions

from places import MODES, PLACES

CONNECTIONS = 8
# What Bulkhead says when it will not have a statement. PostgreSQL knows these, too: who has no right is told 42501 by it as well.
REFUSALS = ("0A000", "28000", "42501", "54000", "54001")


class Counts:
    """What was sent and answered, and after how many statements somebody who watches could have known."""

    def __init__(self):
        self.lock = threading.Lock()
        self.requests = self.statements = self.answered = self.rows = 0
        self.errors = {}
        self.first_error = self.first_refusal = None

    def note(self, sql, state, message, rows, size):
        with self.lock:
            self.requests += 1
            self.statements += 1
            self.answered += size
            self.rows += rows
            if state:
                self.errors[state] = self.errors.get(state, 0) + 1
                what = {"statements": self.statements, "sqlstate": state, "message": message, "sql": sql}
                self.first_error = self.first_error or what
                if state in REFUSALS:
                    self.first_refusal = self.first_refusal or what

    def told(self):
        with self.lock:
            return {k: v for k, v in vars(self).items() if k != "lock"}


class Pool:
    """Connections that are kept, for an attack is thousands of requests."""

    def __init__(self, url):
        self.url, self.free = url, queue.LifoQueue()
        for _ in range(CONNECTIONS):
            self.free.put(None)

    def run(self, sql):
        """Rows, SQLSTATE and message of one text, which may be several statements."""
        connection = self.free.get()
        try:
            connection = self.usable(connection)
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return (cursor.fetchall() if cursor.description else []), None, ""
        except psycopg2.Error as e:
            return [], e.pgcode or "08006", str(e).strip()
        except (ValueError, UnicodeError) as e:  # the driver itself will not send a zero byte
            return [], "22021", str(e)
        finally:
            self.free.put(connection)

    def usable(self, connection):
        """An attacker can leave a transaction open or lose the connection; the next request is not to suffer for it."""
        if connection is not None and not connection.closed:
            if connection.info.transaction_status != extensions.TRANSACTION_STATUS_IDLE:
                connection.rollback()
            return connection
        connection = psycopg2.connect(self.url)
        connection.autocommit = True
        return connection


class Log:
    """One line of JSON for each request, for whoever wants to know which one leaked."""

    def __init__(self, path):
        self.file, self.lock = open(path, "w", buffering=1), threading.Lock()

    def write(self, **entry):
        line = json.dumps(entry)
        with self.lock:
            self.file.write(line + "\n")


def page(title, body):
    return f"<!DOCTYPE html><html><head><title>{title}</title></head><body><h1>{title}</h1>{body}</body></html>"


def shown(place, rows, message):
    """Everything: the rows, or the error as many frameworks show it while they are in debug mode."""
    if message:
        return 500, page("Error", f"<pre>{html.escape(message)}</pre>")
    cells = ("".join(f"<td>{html.escape(str(value))}</td>" for value in row) for row in rows)
    return 200, page(place, "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>")


def hidden(place, rows, _message):
    """One bit."""
    return 200, page(place, "<p>Yes, there is something of that kind.</p>" if rows else "<p>No. Nothing at all was found here.</p>")


PAGES = dict(zip(MODES, (shown, hidden)))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept
    server_version, sys_version = "shop", ""  # sqlmap connects ahead of time only where Python's own server is not named

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/stats":
            return self.answer(200, json.dumps(self.server.counts.told()), "application/json")
        self.serve(url.path, {k: v[-1] for k, v in parse_qs(url.query, keep_blank_values=True).items()}, "")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode("utf8", "replace")
        try:
            fields = json.loads(body)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            return self.answer(400, page("Error", "no JSON"))
        self.serve(urlsplit(self.path).path, fields, body)

    def serve(self, path, fields, body):
        mode, _, place = path.strip("/").partition("/")
        if mode not in PAGES or place not in PLACES:
            return self.answer(404, page("Error", "no such page"))
        parameter, _, statement = PLACES[place]
        sql = statement.format(fields.get(parameter, ""))  # the mistake
        began, clock = time.time(), time.monotonic()
        rows, state, message = self.server.pool.run(sql)
        status, text = PAGES[mode](place, rows, message)
        self.server.counts.note(sql, state, message, len(rows), len(text.encode("utf8", "replace")))
        self.server.log.write(path=self.path, body=body, sql=sql, sqlstate=state, began=began, seconds=round(time.monotonic() - clock, 4),
                              status=status, answer=text)
        self.answer(status, text)

    def answer(self, status, text, kind="text/html; charset=utf-8"):
        data = text.encode("utf8", "replace")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class App(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port, url, log):
        super().__init__(("127.0.0.1", port), Handler)
        self.pool, self.counts, self.log = Pool(url), Counts(), Log(log)

    def handle_error(self, *_):
        """Clients that give up waiting are no news."""


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--url", required=True, help="what it connects to")
    args.add_argument("--log", required=True, help="file for requests, statements and answers")
    args.add_argument("--port", type=int, default=0, help="default: a free one, which is printed")
    args = args.parse_args()
    app = App(args.port, args.url, args.log)
    print(app.server_port, flush=True)
    try:
        app.serve_forever()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
