"""Services that are hosted from outside of a server, and who is let in."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from conftest import Platform

import crossdock
from crossdock import CrossdockError, InvokeError, Receipt

SHOP = """
import asyncio, os, time
from dataclasses import dataclass
from crossdock import Context, Reject, Retry, Response, consume, serve

@dataclass
class Order:
    id: int
    quantity: int

@consume("orders", order="key", max_failures=3)
def fulfil(order: Order, ctx: Context):
    if order.quantity < 1:
        raise Reject("nothing was ordered")
    if order.quantity == 13 and ctx.message.attempt < 2:
        raise Retry("not yet", after=0.05)
    ctx.publish("shipments", {"order": order.id, "attempt": ctx.message.attempt}, key=str(order.id))

@consume("naps")
async def nap(seconds, ctx):
    await asyncio.sleep(seconds)
    ctx.publish("shipments", {"slept": seconds})

@serve()
def quote(order: Order, ctx: Context):
    if order.quantity > 100:
        return Response({"why": "too much"}, status=409)
    ctx.publish("quotes", order.id)
    return {"price": 3 * order.quantity, "method": ctx.method, "id": ctx.params.get("id")}

@serve("shop.double")
async def double(order, ctx):
    reply = await ctx.invoke("shop", order)
    page = await ctx.read("quotes")
    return [2 * reply["price"], bool(page.messages)]

@serve("shop.slow", concurrency=4)
def slow(seconds):
    time.sleep(seconds)
    return "awake"
"""


def ask(platform: Platform, path: str, data: Any) -> tuple[int, Any]:
    """A REST call."""
    login = base64.b64encode(f"{platform.user}:{platform.password}".encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {login}"}
    request = urllib.request.Request(platform.gateway + path, json.dumps(data).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def until_served(cd: crossdock.Client, service: str, data: Any) -> Any:
    until = time.monotonic() + 60
    while True:
        try:
            return cd.invoke(service, data)
        except InvokeError as error:
            assert error.code == "unavailable" and time.monotonic() < until, error
            time.sleep(0.05)


def until_stored(cd: crossdock.Client, topic: str, count: int, start: int = 0) -> list[Any]:
    until, data = time.monotonic() + 60, []
    while len(data) < count and time.monotonic() < until:
        page = cd.read(topic, start, wait=1)
        data += [message.data for message in page.messages]
        start = page.next
    return data


@pytest.fixture
def shop(own_platform: Platform, tmp_path: Path) -> Platform:
    (tmp_path / "shop.py").write_text(SHOP)
    topics = [{"name": name} for name in ("orders", "naps", "shipments", "quotes")]
    own_platform.apply(
        topics=topics, rest_channels=[{"name": "quote", "path": "/quotes/{id}", "service": "shop", "timeout": "20s"}]
    )
    return own_platform


def test_a_service_outside_does_what_one_inside_does(shop: Platform, tmp_path: Path) -> None:
    host = shop.host(tmp_path / "shop.py")
    try:
        with shop.connect() as cd:
            until_served(cd, "shop", {"id": 0, "quantity": 1})
            assert ask(shop, "/quotes/7", {"id": 7, "quantity": 2}) == (
                200, {"price": 6, "method": "POST", "id": "7"}
            )  # fmt: skip
            assert ask(shop, "/quotes/7", {"id": 7, "quantity": 200}) == (409, {"why": "too much"})
            status, error = ask(shop, "/quotes/7", {"id": 7})
            assert status == 400 and "quantity: is missing" in json.dumps(error)
            assert cd.invoke("shop.double", {"id": 1, "quantity": 4}) == [24, True]
            for number in range(200):
                cd.send("orders", {"id": number, "quantity": 13 if number == 5 else 2}, key=str(number % 7))
            cd.send("orders", {"id": 200, "quantity": 0})
            cd.send("orders", {"id": "x"})
            shipped = until_stored(cd, "shipments", 200)
            assert sorted(s["order"] for s in shipped) == list(range(200))
            assert [s["attempt"] for s in shipped if s["order"] == 5] == [2]
            by_key = [[s["order"] for s in shipped if s["order"] % 7 == key] for key in range(7)]
            assert all(orders == sorted(orders) for orders in by_key), by_key
            subscription = cd._connection.call("subscription", name="shop.fulfil")["subscription"]
            assert (subscription["order"], subscription["max_failures"]) == ("key", 3)
            until = time.monotonic() + 30
            reasons: set[str] = set()
            while len(reasons) < 2 and time.monotonic() < until:
                dead = cd._connection.call("dead_letters", name="shop.fulfil", max=10)
                reasons = {letter["reason"] for letter in dead}
            assert reasons == {
                "nothing was ordered", "the data does not fit fulfil: id: expected an integer, got \"x\""
            }  # fmt: skip
    finally:
        host.terminate()
        assert host.wait(30) == 0, host.communicate()


def test_a_service_outside_ends_what_it_holds_before_it_goes(shop: Platform, tmp_path: Path) -> None:
    host = shop.host(tmp_path / "shop.py")
    with shop.connect() as cd:
        until_served(cd, "shop.slow", 0)
        cd.publish("naps", 1.0)
        questions = [crossdock._invoking("shop.slow", 1.0, 20) for _ in range(3)]
        answers = [cd._connection.ask(question) for question in questions]
        time.sleep(0.4)
        host.terminate()
        assert [q.finish(answer.result(30)) for q, answer in zip(questions, answers)] == ["awake"] * 3
        assert until_stored(cd, "shipments", 1) == [{"slept": 1.0}]
        assert host.wait(30) == 0
        with pytest.raises(InvokeError) as gone:
            cd.invoke("shop.slow", 0, timeout=5)
        assert gone.value.code == "unavailable"


def test_services_outside_outlive_their_server_and_share_its_work(shop: Platform, tmp_path: Path) -> None:
    hosts = [shop.host(tmp_path / "shop.py") for _ in range(2)]
    try:
        with shop.connect() as cd:
            until_served(cd, "shop", {"id": 0, "quantity": 1})
            sent: list[Future[Receipt]] = []
            for round in range(3):
                for number in range(round * 300, round * 300 + 300):
                    sent.append(cd.send("orders", {"id": number, "quantity": 1}, key=str(number)))
                if round < 2:
                    sent[-150].result(60)
                    shop.kill()
                    shop.start()
            assert [future.result(60).offset for future in sent] == list(range(900))
            # Each order is shipped once: what is published comes with the acknowledgement.
            shipped = until_stored(cd, "shipments", 900)
            assert sorted(s["order"] for s in shipped) == list(range(900))
            until_served(cd, "shop", {"id": 0, "quantity": 1})
            hosts[0].kill()
            for number in range(900, 1000):
                cd.send("orders", {"id": number, "quantity": 1}, key=str(number))
            assert sorted(s["order"] for s in until_stored(cd, "shipments", 100, 900)) == list(range(900, 1000))
    finally:
        for host in hosts:
            host.kill()


def test_a_service_that_cannot_be_hosted_says_what_is_missing(own_platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)

    def refused(*more: str, **env: str) -> str:
        host = own_platform.host(tmp_path / "shop.py", *more, env=env)
        _, errors = host.communicate(timeout=60)
        assert host.returncode == 1
        return errors.splitlines()[-1]

    assert refused() == (
        "error: fulfil cannot consume: there is no topic orders; make it first: crossdock topic create orders"
    )
    assert "shop broken" in refused("--service", "shop broken")
    wrong = refused(CROSSDOCK_PASSWORD="wrong")
    assert wrong.startswith("error: ") and "password" in wrong, wrong
    (tmp_path / "empty.py").write_text("x = 1")
    host = own_platform.host(tmp_path / "empty.py")
    assert "there is no service in the file" in host.communicate(timeout=60)[1]


def test_who_is_not_known_is_told_so_at_once(platform: Platform) -> None:
    for credentials in ({"password": "wrong"}, {"user": None, "password": None}, {"user": None, "api_key": "cdk_no"}):
        with pytest.raises(CrossdockError) as refused, platform.connect(**credentials):
            pass
        assert refused.value.code == "unauthenticated", refused.value
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with pytest.raises(CrossdockError) as nobody, crossdock.connect(f"crossdock://127.0.0.1:{port}", timeout=0.3):
        pass
    assert nobody.value.code == "unavailable" and "cannot be reached" in nobody.value.message
    with pytest.raises(ValueError, match="is not a server's address"):
        crossdock.connect("http://127.0.0.1")
    with pytest.raises(ValueError, match="crossdocks://"):
        crossdock.connect("crossdock://broker.example", user="ada", password="pw")
    with pytest.raises(ValueError, match="holds no user or password"):
        crossdock.connect("crossdock://ada:pw@localhost")


def test_what_is_not_given_comes_from_the_environment(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**platform.login, "CROSSDOCK_BROKER_URL": platform.url}.items():
        monkeypatch.setenv(name, value)
    with crossdock.connect() as cd, pytest.raises(CrossdockError) as missing:
        cd.read("nowhere")
    assert missing.value.code == "not_found"


@contextlib.contextmanager
def _sealed_server(binary: str, folder: Path, cert: Path, key: Path) -> Iterator[str]:
    """A server whose wire is encrypted: its address."""
    env = {n: v for n, v in os.environ.items() if not n.startswith("CROSSDOCK_")}
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            [binary, "server", "--broker", f"rocksdb:{folder / 'broker'}", "--dir", str(folder / "server"),
             "--port-base", "0", "--tls-cert", str(cert), "--tls-key", str(key), "-o", "json"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            env={**env, "HOME": str(folder), "CROSSDOCK_ADMIN_PASSWORD": "sealed-and-signed"},
        )  # fmt: skip
    try:
        assert server.stdout is not None
        ready = server.stdout.readline()
        assert ready, (folder / "log").read_text()
        yield json.loads(ready)["broker_url"]
    finally:
        server.kill()
        server.wait(30)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_a_connection_is_encrypted_and_the_server_is_who_it_says(binary: str, tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    login: Any = {"user": "admin", "password": "sealed-and-signed"}
    with _sealed_server(binary, tmp_path, cert, key) as url:
        port = urllib.parse.urlsplit(url).port
        with crossdock.connect(f"crossdocks://localhost:{port}", ca_file=str(cert), **login) as cd:
            cd._connection.call("put_topic", topic={"name": "sealed"}, expect="any")
            sent = [cd.send("sealed", b"x" * 10_000) for _ in range(500)]
            assert [future.result(60).offset for future in sent] == list(range(500))
        with pytest.raises(CrossdockError) as unknown, crossdock.connect(f"crossdocks://localhost:{port}", **login):
            pass
        assert unknown.value.code == "unauthenticated" and "CROSSDOCK_CA_FILE" in str(unknown.value.hint)
        elsewhere = crossdock.connect(f"crossdocks://127.0.0.1:{port}", ca_file=str(cert), **login)
        with pytest.raises(CrossdockError) as mismatch, elsewhere:
            pass
        assert "certificate" in mismatch.value.message
        # Without TLS it is not spoken to, and a password is not sent.
        with pytest.raises(CrossdockError), crossdock.connect(f"crossdock://localhost:{port}", timeout=2, **login):
            pass


def test_the_example_of_a_publisher_and_a_service_outside_runs(own_platform: Platform) -> None:
    folder = Path(__file__).parents[3] / "examples" / "parcels"
    own_platform.apply_file(folder / "crossdock.yaml")
    env = {
        **own_platform.env,
        "CROSSDOCK_BROKER_URL": own_platform.url,
        "PYTHONPATH": str(Path(crossdock.__file__).parent),
    }
    service = subprocess.Popen([sys.executable, "parcels.py"], cwd=folder, env=env)
    try:
        with own_platform.connect() as cd:
            until_served(cd, "parcels", {"id": "p", "grams": 100, "to": "Lagos"})
        sender = subprocess.run(
            [sys.executable, "send.py", "300"], cwd=folder, env=env, capture_output=True, text=True, timeout=120
        )
        assert sender.returncode == 0, sender.stderr
        cents = sum(250 + 3 * (n % 50 + 1) for n in range(300))
        assert sender.stdout.splitlines() == [
            "a parcel of 1200 g costs 286 cents",
            "300 parcels are stored, the last one at offset 299",
            f"300 parcels are booked, for {cents} cents",
        ]
        assert ask(own_platform, "/price", {"id": "p", "grams": 1200, "to": "Lagos"}) == (200, {"cents": 286})
    finally:
        service.terminate()
        assert service.wait(30) == 0
