"""The process as a worker runs it, with a test at the worker's end of the socket."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import crossdock

SRC = Path(crossdock.__file__).parent
RUN = f"import sys; sys.path[0] = {str(SRC)!r}; import crossdock; crossdock._main()"


class Worker:
    """A worker's end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.frames: list[tuple[list[Any], bytes]] = []
        self.splitter = crossdock._Splitter()

    def start(
        self, code: str, memory: int = 2**30, inspect: bool = False, protocol: int = 1
    ) -> tuple[list[Any], bytes]:
        path = self.folder / "service.py"
        path.write_text(code)
        self.beacon = self.folder / "beacon"
        self.beacon.write_bytes(bytes(8))
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(10)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-c", RUN], stdin=theirs.fileno(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        start = {
            "service": "svc",
            "version": "1",
            "path": str(path),
            "timeout_ms": 30000,
            "memory": memory,
            "beacon": str(self.beacon),
            "inspect": inspect,
        }
        self.send([60, protocol], json.dumps(start).encode())
        return self.receive()

    def send(self, header: list[Any], payload: bytes = b"") -> None:
        self.sock.sendall(crossdock._frame(crossdock._pack(header), payload))

    def request(self, call: int, payload: bytes, handler: int = 0, budget: int = 5000) -> None:
        record = crossdock._pack_record(payload, content_type="application/json", headers={":method": "POST"})
        self.send([20, call, handler + 1, budget, len(payload)], record)

    def receive(self) -> tuple[list[Any], bytes]:
        while not self.frames:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError(self.process.communicate(timeout=10)[0].decode())
            self.splitter.feed(data, self.frames.append)
        return self.frames.pop(0)

    def reply(self) -> tuple[int, Any]:
        header, record = self.receive()
        assert header[0] == 21, header
        if header[2] is not None:
            return header[1], header[2]
        return header[1], crossdock.Message(record, crossdock._payload_bytes(record)).data


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(tmp_path)
    yield worker
    worker.sock.close()
    worker.process.kill()
    worker.process.wait()
    assert worker.process.stdout is not None
    worker.process.stdout.close()


ECHO = """
from crossdock import serve
@serve()
def echo(data): return data
"""

ASYNC = """
import asyncio, time
from crossdock import serve, consume
@serve()
async def later(seconds, ctx):
    await asyncio.sleep(seconds)
    return await ctx.invoke("other", seconds)
@serve("plain", concurrency=4)
def plain(data, ctx):
    time.sleep(data)
    return ctx.invoke("other", data)
"""


def test_the_manifest_is_what_the_code_says(worker: Worker) -> None:
    code = """
from crossdock import consume, serve
@consume("orders", "github.**", timeout=2.5, start="end")
def fulfil(order): ...
@consume("orders", subscription="audit", max_failures=1, order="key", sharing="failover", filter=".total > 100")
async def audit(order): ...
@serve("quotes")
def quote(order): ...
"""
    header, payload = worker.start(code, inspect=True)
    assert header == [60, 1, 66, False]
    assert json.loads(payload) == {
        "handlers": [
            {
                "kind": "consume", "function": "fulfil", "concurrency": 1, "timeout": "2500ms",
                "topics": ["orders", "github.**"], "start": "end", "max_failures": 5, "subscription": "svc.fulfil",
            },
            {
                "kind": "consume", "function": "audit", "concurrency": 64, "topics": ["orders"], "start": "start",
                "max_failures": 1, "subscription": "audit", "order": "key", "sharing": "failover",
                "filter": {"jq": ".total > 100"},
            },
            {"kind": "serve", "function": "quote", "concurrency": 1, "name": "quotes"},
        ]
    }  # fmt: skip
    assert worker.process.wait(10) == 0


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import nothing_of_this_name", "No module named 'nothing_of_this_name'"),
        ("def f(:", "SyntaxError"),
        ("x = 1", "there is no service in the file"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("from crossdock import *\n@serve()\ndef a(): ...\n@serve()\ndef b(): ...", "two functions answer to svc"),
        ("from crossdock import *\n@serve()\ndef a(x: int, y: int): ...", "more than one parameter for data: y"),
        ("from crossdock import *\n@serve()\ndef a(x: 'Nope'): ...", "annotations of a cannot be understood"),
    ],
)
def test_code_that_cannot_run_is_refused_with_the_reason(worker: Worker, code: str, why: str) -> None:
    header, payload = worker.start(code)
    assert header[:2] == [61, 1]
    text = payload.decode()
    assert why in text and "crossdock.py" not in text
    assert worker.process.wait(10) == 0


def test_another_protocol_is_refused(worker: Worker) -> None:
    header, payload = worker.start(ECHO, protocol=2)
    assert header == [61, 1] and b"protocol 2" in payload


def test_pipelined_calls_are_answered_in_order(worker: Worker) -> None:
    assert worker.start(ECHO)[0] == [60, 1, 1, True]
    for first in range(1, 501, 20):
        for call in range(first, first + 20):
            worker.request(call, json.dumps({"n": call, "pad": "x" * (call * 7 % 3000)}).encode())
        for call in range(first, first + 20):
            number, data = worker.reply()
            assert (number, data["n"]) == (call, call)
    large = json.dumps("y" * 5_000_000).encode()
    worker.request(501, large)
    assert len(worker.reply()[1]) == 5_000_000
    worker.send([3, 0])
    assert worker.process.wait(10) == 0


def test_deliveries_of_one_frame_are_settled_one_by_one(worker: Worker) -> None:
    worker.start(
        "from crossdock import *\n@consume('orders', subscription='audit')\ndef audit(n, ctx):\n"
        "    if n == 2: raise Retry('later', after=1.5)\n    if n == 3: raise Reject('no')\n"
        "    if n == 4: ctx.publish('seen', ctx.message.offset)"
    )
    records = [crossdock._pack_record(b"%d" % n, content_type="application/json") for n in range(1, 5)]
    run = b"".join(struct.pack("<I", len(record)) + record for record in records)
    topics = [["orders", 7, [[300, 41, 1700000000000, 1, 1, 3], [310, 44, 1700000000000, 2, 3, 1]]]]
    worker.send([14, 1, topics, [1, 1, 1, 1]], run)
    assert worker.receive() == ([17, 0, "audit", [[0, 7, 300, 41, 1, None, ""]], [], None], b"")
    assert worker.receive()[0] == [17, 0, "audit", [[1, 7, 301, 42, 1, 1500, "later"]], [], None]
    assert worker.receive()[0] == [17, 0, "audit", [[3, 7, 302, 43, 1, None, "no"]], [], None]
    header, payload = worker.receive()
    assert header == [17, 0, "audit", [[0, 7, 310, 44, 1, None, ""]], [["seen", len(payload)]], None]
    output = crossdock.Message(payload[4:], 3)
    assert (output.payload, output.content_type) == (b"310", "application/json")


def test_a_plain_handler_asks_while_other_calls_wait(worker: Worker) -> None:
    worker.start("from crossdock import serve\n@serve()\ndef ask(n, ctx): return [n, ctx.invoke('other', n)]")
    for call in (1, 2):
        worker.request(call, b"%d" % call)
    for call in (1, 2):
        header, record = worker.receive()
        assert header[:3] == [19, call, "other"] and 0 < header[3] <= 5000
        worker.send([19, header[1], crossdock._payload_bytes(record)], record)
        assert worker.reply() == (call, [call, call])


def test_async_and_plain_handlers_run_side_by_side(worker: Worker) -> None:
    assert worker.start(ASYNC)[0] == [60, 1, 68, False]
    begun = time.monotonic()
    for call in range(1, 9):
        worker.request(call, b"0.3", handler=call % 2)
    answered: set[int] = set()
    while len(answered) < 8:
        header, record = worker.receive()
        if header[0] == 19:
            worker.send([19, header[1], crossdock._payload_bytes(record)], record)
        else:
            assert header[2] is None, header
            answered.add(header[1])
    assert time.monotonic() - begun < 1.2
    worker.request(9, b"30", budget=200)
    call, error = worker.reply()
    assert call == 9 and error[0] == "service_failed" and "took longer than 0.2 s" in error[1]
    worker.request(10, b"0.2")
    worker.send([3, 0])
    header, record = worker.receive()
    worker.send([19, header[1], crossdock._payload_bytes(record)], record)
    assert worker.reply() == (10, 0.2)
    assert worker.process.wait(10) == 0


def test_the_beacon_names_the_call_that_killed_the_process(worker: Worker) -> None:
    worker.start("import os\nfrom crossdock import serve\n@serve()\ndef f(n):\n    if n == 3: os._exit(9)")
    for call in range(1, 6):
        worker.request(call, b"%d" % call)
    assert worker.process.wait(10) == 9
    assert struct.unpack("<Q", worker.beacon.read_bytes()) == (3,)


def test_memory_is_limited(worker: Worker) -> None:
    worker.start("from crossdock import serve\n@serve()\ndef f(n): return len(bytearray(n))", memory=256 * 2**20)
    worker.request(1, b"1000000000")
    _, error = worker.reply()
    assert error[0] == "service_failed" and "MemoryError" in error[1]
    worker.request(2, b"1000")
    assert worker.reply() == (2, 1000)


@pytest.mark.parametrize("loop", ["while True: pass", "import time; time.sleep(600)"])
def test_the_process_ends_with_its_worker_even_in_an_endless_loop(worker: Worker, loop: str) -> None:
    worker.start(f"from crossdock import serve\n@serve()\ndef f(n):\n    {loop}")
    worker.request(1, b"1")
    time.sleep(0.1)
    worker.sock.close()
    assert worker.process.wait(10) == -9


def test_standard_input_is_empty_and_the_service_cannot_break_the_socket(worker: Worker) -> None:
    worker.start("import sys, os\nfrom crossdock import serve\n@serve()\ndef f(n):\n    os.close(0)\n    return n")
    worker.request(1, b"1")
    assert worker.reply() == (1, 1)
