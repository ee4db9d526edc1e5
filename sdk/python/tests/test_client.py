"""The client against a real server: publishing, consuming, and what happens when the server dies meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time
from concurrent.futures import Future
from typing import Any

import pytest
from conftest import Platform

import crossdock
from crossdock import CrossdockError, InvokeError, Outgoing, Receipt

_numbers = itertools.count()


def topic_of(platform: Platform, **subscription: Any) -> tuple[str, str]:
    """A topic of the test's own, with a subscription."""
    number = next(_numbers)
    topic, name = f"t{number}", f"s{number}"
    platform.apply(topics=[{"name": topic}], subscriptions=[{"name": name, "topics": [topic], **subscription}])
    return topic, name


def take(consumer: crossdock.Consumer, count: int) -> list[crossdock.Delivery]:
    taken = [consumer.get(30) for _ in range(count)]
    assert None not in taken, taken
    return [delivery for delivery in taken if delivery is not None]


def test_a_receipt_says_where_a_message_lies_and_an_id_is_stored_once(platform: Platform) -> None:
    topic, _ = topic_of(platform)
    with platform.connect() as cd:
        assert cd.publish(topic, {"n": 1}, id="a", key="k") == Receipt(topic, 0, False, "fsync")
        assert cd.publish(topic, {"n": 2}, id="a") == Receipt(topic, 0, True, "fsync")
        many = cd.publish_many(topic, ["x", Outgoing("y", id="a"), Outgoing(b"z", key="k", headers={"Via": "test"})])
        assert [(r.offset, r.duplicate) for r in many] == [(1, False), (0, True), (2, False)]
        first, second, third = cd.read(topic).messages
        assert (first.data, first.key, first.id, second.data) == ({"n": 1}, "k", "a", "x")
        assert (third.payload, third.key, third.headers) == (b"z", "k", {"via": "test"})
        page = cd.read(topic, 2, max=1)
        assert ([m.offset for m in page.messages], page.next) == ([2], 3)
        assert cd.read(topic, "end").messages == []


def test_messages_that_are_sent_on_are_stored_in_their_order(platform: Platform) -> None:
    topic, _ = topic_of(platform)
    with platform.connect() as cd:
        sent = [cd.send(topic, n) for n in range(5000)]
        assert [future.result(30).offset for future in sent] == list(range(5000))
        stored: list[int] = []
        while len(stored) < 5000:
            page = cd.read(topic, len(stored), max=5000)
            stored += [message.data for message in page.messages]
        assert stored == list(range(5000))


def test_what_is_refused_says_so_and_leaves_the_rest_alone(platform: Platform) -> None:
    topic, _ = topic_of(platform)
    with platform.connect() as cd:
        with pytest.raises(CrossdockError) as missing:
            cd.publish("nowhere", 1)
        assert missing.value.code == "not_found" and "crossdock topic create nowhere" in str(missing.value.hint)
        assert cd.publish(topic, "first", expected_last=-1).offset == 0
        with pytest.raises(CrossdockError) as unexpected:
            cd.publish(topic, "second", expected_last=7)
        assert unexpected.value.code == "conflict"
        assert cd.publish(topic, "second", expected_last=0).offset == 1
        with pytest.raises(CrossdockError) as large:
            cd.publish(topic, bytes(2 * 1024 * 1024))
        assert large.value.code == "too_large"
        with pytest.raises(CrossdockError) as nobody:
            cd.consume("no.such.subscription").get(30)
        assert nobody.value.code == "not_found"
        with pytest.raises(InvokeError) as unserved:
            cd.invoke("no.such.service", 1, timeout=5)
        assert unserved.value.code == "unavailable"
        assert cd.publish(topic, "third").offset == 2
    with pytest.raises(CrossdockError) as closed:
        cd.publish(topic, "fourth")
    assert "closed" in closed.value.message


def test_a_topic_that_is_made_again_takes_what_its_publisher_goes_on_to_send(platform: Platform) -> None:
    topic = f"t{next(_numbers)}"
    with platform.connect() as cd:
        for _ in range(2):
            cd._connection.call("put_topic", topic={"name": topic}, expect="any")
            assert [cd.publish(topic, n).offset for n in range(3)] == [0, 1, 2]
            cd._connection.call("delete_topic", name=topic)


def test_a_consumer_says_what_becomes_of_each_message(platform: Platform) -> None:
    topic, name = topic_of(platform)
    results, _ = topic_of(platform)
    with platform.connect(name="tester") as cd:
        cd.publish_many(topic, list(range(5)))
        with cd.consume(name) as consumer:
            done, again, back, bad, late = take(consumer, 5)
            assert [m.data for m in (done, again, back, bad, late)] == list(range(5))
            done.publish(results, {"of": done.offset}, key="k")
            assert cd.read(results).messages == []
            done.ack().result(30)
            assert [m.data for m in cd.read(results).messages] == [{"of": 0}]
            again.retry("not yet", after=0.01)
            back.release()
            bad.reject("nothing was ordered").result(30)
            late.extend(60).result(30)
            returned = {m.data: (m.attempt, m.deliveries) for m in take(consumer, 2)}
            assert returned == {1: (2, 2), 2: (1, 2)}
            with pytest.raises(ValueError, match="settled already"):
                done.ack()
        # What it still held is given back when it leaves, and no failure is counted.
        with cd.consume(name) as consumer:
            rest = sorted(take(consumer, 3), key=lambda message: message.offset or 0)
            assert [(m.data, m.attempt) for m in rest] == [(1, 2), (2, 1), (4, 1)]
            for settled in [message.ack() for message in rest]:
                settled.result(30)
        dead = cd._connection.call("dead_letters", name=name, max=10)
        assert [(d["offset"], d["reason"], d["by"]) for d in dead] == [(3, "nothing was ordered", "tester")]
        [progress] = cd._connection.call("subscription", name=name)["topics"]
        assert (progress["in_flight"], progress["waiting"], progress["set_aside"]) == (0, 0, 0)


def test_a_loop_over_a_consumer_ends_when_it_is_closed(platform: Platform) -> None:
    topic, name = topic_of(platform)
    with platform.connect() as cd:
        cd.publish_many(topic, list(range(1000)))
        seen = []
        consumer = cd.consume(name, prefetch=10)
        for message in consumer:
            seen.append(message.data)
            message.ack()
            if len(seen) == 1000:
                consumer.close()
        assert sorted(seen) == list(range(1000))
        assert consumer.get(1) is None


def test_what_waits_at_a_slow_consumer_is_kept_for_it(platform: Platform) -> None:
    topic, name = topic_of(platform, lease="4s")
    with platform.connect() as cd:
        cd.publish_many(topic, list(range(20)))
        with cd.consume(name) as consumer:
            for expected in range(20):
                [message] = take(consumer, 1)
                assert (message.data, message.deliveries) == (expected, 1)
                time.sleep(0.3)
                message.ack().result(30)


def test_a_message_that_is_held_too_long_cannot_be_settled_any_more(platform: Platform) -> None:
    topic, name = topic_of(platform, backoff={"first": "10ms"}, max_failures=1000)
    with platform.connect() as cd:
        cd.publish(topic, "x")
        with cd.consume(name, lease=0.5) as consumer:
            [message] = take(consumer, 1)
            [again] = take(consumer, 1)
            assert again.deliveries == 2
            with pytest.raises(CrossdockError) as stale:
                message.ack().result(30)
            assert stale.value.code == "conflict"


def test_async_code_awaits(platform: Platform) -> None:
    topic, name = topic_of(platform)

    async def main() -> None:
        async with platform.connect() as cd:
            receipts = await asyncio.gather(*(cd.publish(topic, n) for n in range(500)))
            assert [r.offset for r in receipts] == list(range(500))
            assert len(await cd.publish_many(topic, ["a", "b"])) == 2
            seen = []
            async for message in cd.consume(name):
                seen.append(message.data)
                await message.ack()
                if len(seen) == 502:
                    break
            assert sorted(map(str, seen)) == sorted(map(str, [*range(500), "a", "b"]))
            assert (await cd.read(topic, 501)).messages[0].data == "b"
            with pytest.raises(InvokeError):
                await cd.invoke("no.such.service", timeout=5)
            with pytest.raises(CrossdockError):
                await cd.publish("nowhere", 1)
            waiting = asyncio.ensure_future(cd.consume(name).__anext__())
            await asyncio.sleep(0.1)
            waiting.cancel()

    asyncio.run(main())


def test_a_killed_server_loses_and_doubles_nothing(own_platform: Platform) -> None:
    topic, name = topic_of(own_platform)
    copies, _ = topic_of(own_platform)
    with own_platform.connect() as cd:
        sent: list[Future[Receipt]] = []
        settled = 0
        consumer = cd.consume(name, prefetch=50)
        for round in range(4):
            for n in range(round * 1000, round * 1000 + 1000):
                sent.append(cd.send(topic, n))
                if n % 1000 == 500 and round < 3:
                    own_platform.kill()
                    own_platform.start()
                message = consumer.get(0.5) if n % 10 == 0 else None
                if message is not None:
                    message.publish(copies, message.data)
                    message.ack()
                    settled += 1
        assert settled > 0
        # No message has an id: the server knows the publisher's batches.
        assert [future.result(60).offset for future in sent] == list(range(4000))
        until = time.monotonic() + 60
        copied: list[int] = []
        while len(copied) < 4000 and time.monotonic() < until:
            message = consumer.get(0.1)
            while message is not None:
                message.publish(copies, message.data)
                message.ack()
                message = consumer.get(0)
            copied += [m.data for m in cd.read(copies, len(copied), wait=0.1).messages]
        # What is published with an acknowledgement comes out once, however often its message was delivered.
        assert sorted(copied) == list(range(4000))


def test_a_server_that_stops_is_told_what_it_waits_for(own_platform: Platform) -> None:
    topic, name = topic_of(own_platform)
    with own_platform.connect() as cd:
        cd.publish_many(topic, list(range(20)))
        consumer = cd.consume(name)
        held = take(consumer, 10)
        assert own_platform.process is not None
        own_platform.process.terminate()
        while not cd._connection.draining:
            time.sleep(0.01)
        late = cd.send(topic, "late")
        for message in held:
            message.ack().result(30)
        assert own_platform.process.wait(60) == 0
        own_platform.start()
        assert late.result(60).offset == 20
        again = take(consumer, 11)
        assert sorted(m.offset or 0 for m in again) == list(range(10, 21))
        assert all(m.attempt == 1 for m in again), "what was given back is no failure"
        for message in again:
            message.ack()
        consumer.close()


class Pretender:
    """A server that says what the test has it say."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(30)
        self.url = f"crossdock://127.0.0.1:{self.listener.getsockname()[1]}"

    def accept(self, heartbeat_ms: int = 0) -> None:
        self.sock, _ = self.listener.accept()
        self.sock.settimeout(30)
        self.splitter = crossdock._Splitter()
        self.frames: list[tuple[list[Any], bytes]] = []
        self.hello = self.receive()
        self.send([1, 0, 1, "pretender", heartbeat_ms, 65536, 1 << 20, 100, 100])

    def send(self, header: list[Any], payload: bytes = b"") -> None:
        self.sock.sendall(crossdock._frame(crossdock._pack(header), payload))

    def receive(self) -> tuple[list[Any], bytes]:
        while True:
            while not self.frames:
                data = self.sock.recv(65536)
                assert data, "the client hung up"
                self.splitter.feed(data, self.frames.append)
            frame = self.frames.pop(0)
            if frame[0][0] != 2:
                return frame


def test_a_silent_server_is_left_and_told_again_what_it_did_not_answer() -> None:
    server = Pretender()
    client = crossdock.connect(server.url, user="ada", password="pw", name="tester")
    server.accept(heartbeat_ms=50)
    with client as cd:
        assert server.hello[0] == [1, 0, 1, 1, "tester", ["ada", "pw"]]
        first, second = cd.send("orders", "one"), cd.send("orders", "two", durability="fsync")
        said = [server.receive(), server.receive()]
        assert said[1][0][2:5] == ["orders", 2, None] and said[1][0][5][2:] == [1, 0]
        # It never says a word again.
        server.accept()
        again = [server.receive(), server.receive()]
        for (before, payload), (after, repeated) in zip(said, again):
            assert (before[5], payload) == (after[5], repeated), "the same batch of the same publisher"
            assert after[1] > before[1]
        server.send([10, again[0][0][1], 7, 1, 2, []])
        server.send([24, again[1][0][1], ["overloaded", "full", "wait", 250]])
        assert first.result(30) == Receipt("orders", 7, False, "fsync")
        with pytest.raises(CrossdockError) as full:
            second.result(30)
        assert (full.value.code, full.value.retry_after, str(full.value)) == ("overloaded", 0.25, "full; wait")
        third = cd.send("orders", "three")
        assert server.receive()[0][5][2:] == [2, 2]
        with pytest.raises(CrossdockError) as late:
            cd.publish("orders", "four", timeout=0.05)
        assert late.value.code == "timeout" and "may be stored or not" in str(late.value)
        server.sock.close()
        server.accept()
        for _ in range(2):
            header, _ = server.receive()
            server.send([10, header[1], header[5][2], 1, 100 + 3, []])
        assert third.result(30) == Receipt("orders", 2, False, "quorum(3)")


def test_what_makes_no_sense_ends_the_stay_and_nothing_more(caplog: pytest.LogCaptureFixture) -> None:
    server = Pretender()
    client = crossdock.connect(server.url)
    server.accept()
    with client as cd:
        answer = cd._connection.ask(crossdock._reading("orders", "start", 10, 0))
        assert server.receive()[0][0] == 11
        server.sock.sendall(b"\xff" * 100)
        server.accept()
        header, _ = server.receive()  # a question that does no harm is asked again
        server.send([11, header[1], 5, []])
        assert answer.result(30)[0][2] == 5
    assert "what the server said is not understood" in caplog.text


def test_a_publisher_that_is_forgotten_begins_anew_once() -> None:
    server = Pretender()
    client = crossdock.connect(server.url)
    server.accept()
    with client as cd:
        first = cd.send("orders", "one")
        header, _ = server.receive()
        server.send([10, header[1], 0, 1, 2, []])
        assert first.result(30).offset == 0
        second = cd.send("orders", "two")
        before, payload = server.receive()
        server.send([24, before[1], ["conflict", "nothing is known of this publisher", None, None]])
        after, again = server.receive()
        assert (before[5][2:], after[5][2:], again) == ([1, 1], [0, 0], payload)
        assert before[5][:2] != after[5][:2], "it is another publisher"
        server.send([24, after[1], ["conflict", "not this one either", None, None]])
        with pytest.raises(CrossdockError, match="not this one either"):
            second.result(30)
