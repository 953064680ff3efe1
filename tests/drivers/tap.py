"""A TCP relay between a driver and what it connects to.

It reads every byte that goes to the client, looks for tokens that must never be there, and notes the statements that the
client sent and the errors that came back. Clients connect without TLS.
"""

import asyncio
import re
import struct
import threading


# The application name of a connection whose statements a proxy may refuse.
MAY = "driver:may be refused"


class Tap:
    def __init__(self, port, forbidden):
        self.target, self.forbidden = port, [f.encode() for f in forbidden]
        self.leaks, self.statements, self.errors, self.commands = [], [], [], 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self.client, "127.0.0.1", 0), self.loop).result(10)
        self.port = self.server.sockets[0].getsockname()[1]

    def close(self):
        asyncio.run_coroutine_threadsafe(self.finish(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)

    async def finish(self):
        """What is still open belongs to a client that has ended."""
        self.server.close()
        rest = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def client(self, reader, writer):
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        link = Link(self)
        try:
            await asyncio.gather(self.pump(reader, up_writer, link.from_client), self.pump(up_reader, writer, link.from_server))
        except asyncio.CancelledError:
            up_writer.close()
            writer.close()

    async def pump(self, reader, writer, see):
        try:
            while data := await reader.read(65536):
                see(data)
                writer.write(data)
                await writer.drain()
        except (ConnectionError, OSError):
            pass
        finally:
            writer.close()


class Link:
    """One connection: cuts both directions into messages."""

    def __init__(self, tap):
        self.tap, self.up, self.down, self.tail = tap, b"", b"", b""
        self.started = self.plain = False
        self.prepared, self.portals, self.last, self.label = {}, {}, "", ""
        # What the server has still to answer, in order: (kind of message, statement). Pipelines run ahead of their answers.
        self.pending = []

    def from_client(self, data):
        self.up += data
        while True:
            if not self.started:
                if len(self.up) < 8:
                    return
                size, code = struct.unpack("!II", self.up[:8])
                if len(self.up) < size:
                    return
                if (code >> 16) == 3:
                    self.read_startup(self.up[8:size])
                self.up = self.up[size:]
                self.plain = self.plain or code in (80877103, 80877104)
                continue
            if len(self.up) < 5:
                return
            size = 1 + struct.unpack("!I", self.up[1:5])[0]
            if len(self.up) < size:
                return
            self.message(self.up[:1], self.up[5:size])
            self.up = self.up[size:]

    def read_startup(self, body):
        words = body.decode("utf8", "replace").split("\0")
        name = dict(zip(words[::2], words[1::2])).get("application_name", "")
        self.started, self.label = True, name if name.startswith("driver:") else ""

    def message(self, kind, body):
        if kind == b"Q":
            self.last = body[:-1].decode("utf8", "replace")
            self.pending.append((b"Q", self.last))
            self.tap.statements.append(("simple", self.label, self.last))
        elif kind == b"P":
            name, sql = body.split(b"\0", 2)[:2]
            self.last = self.prepared[name] = sql.decode("utf8", "replace")
            self.pending.append((b"P", self.last))
            self.tap.statements.append(("extended", self.label, self.last))
        elif kind == b"B":
            portal, name = body.split(b"\0", 2)[:2]
            self.last = self.portals[portal] = self.prepared.get(name, self.last)
        elif kind == b"E":
            self.pending.append((b"E", self.portals.get(body.split(b"\0", 1)[0], self.last)))
        elif kind == b"S":
            self.pending.append((b"S", ""))

    def answered(self, kind):
        """Takes what a message of the server answers off the list."""
        front = self.pending[0][0] if self.pending else b""
        if (kind == b"1" and front == b"P") or (kind in b"CIs" and front == b"E"):
            self.pending.pop(0)
        elif kind == b"Z":
            while self.pending and self.pending.pop(0)[0] not in b"QS":
                pass

    def accused(self):
        """The statement that an error is about."""
        return self.pending[0][1] if self.pending and self.pending[0][1] else self.last

    def from_server(self, data):
        window = self.tail + data
        for token in self.tap.forbidden:
            if token in window:
                self.tap.leaks.append(f"{token.decode()} after: {self.last[:300]}")
        self.tail = window[-64:]
        self.down += data
        while self.down:
            if self.plain and self.down[:1] in b"SN":
                self.plain, self.down = False, self.down[1:]
                continue
            if len(self.down) < 5:
                return
            size = 1 + struct.unpack("!I", self.down[1:5])[0]
            if len(self.down) < size:
                return
            if self.down[:1] == b"E":
                fields = {f[:1]: f[1:].decode("utf8", "replace") for f in self.down[5:size].split(b"\0") if f}
                if self.label != MAY:
                    self.tap.errors.append((self.accused(), fields.get(b"C", "?"), fields.get(b"M", "?")))
            elif self.down[:1] == b"C":
                self.tap.commands += 1
            self.answered(self.down[:1])
            self.down = self.down[size:]


def shape(sql):
    """What makes two statements the same for the corpus: the text without the digits and the tokens of a tenant."""
    return re.sub(r"CANARY[a-z]+[0-9a-f]{4}", "CANARY", re.sub(r"\d+", "0", sql)).strip()
