"""A service tested with plain pytest and no server, as its author would."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

import crossdock
from crossdock import Context, InvokeError, Message, Reject, Response, Retry, Sandbox, consume, run, serve


@dataclass
class Order:
    id: str
    quantity: int


@consume("orders")
def fulfil(order: Order, ctx: Context) -> None:
    if order.quantity < 1:
        raise Reject("nothing was ordered")
    if order.quantity > 100:
        raise Retry("out of stock", after=5)
    if order.id == "broken":
        raise ValueError("no such article")
    ctx.publish("shipments", {"order": order.id}, key=order.id, headers={"Via": "fulfil"}, expires_in=60)


@serve("quotes")
def quote(order: Order) -> dict[str, int]:
    return {"price": 3 * order.quantity}


def test_what_a_handler_publishes_comes_with_its_ack() -> None:
    result = run(fulfil, Order("7", 2))
    assert result.outcome == "ack"
    [shipment] = result.outputs
    assert (shipment.topic, shipment.key, shipment.json()) == ("shipments", "7", {"order": "7"})
    assert shipment.headers == {"via": "fulfil"}
    assert shipment.expires_at is not None
    assert timedelta(seconds=55) < shipment.expires_at - datetime.now(timezone.utc) <= timedelta(seconds=60)


def test_a_handler_says_what_becomes_of_its_message() -> None:
    rejected = run(fulfil, {"id": "7", "quantity": 0})
    assert (rejected.outcome, rejected.reason, rejected.outputs) == ("reject", "nothing was ordered", [])
    retried = run(fulfil, {"id": "7", "quantity": 200})
    assert (retried.outcome, retried.reason, retried.after) == ("retry", "out of stock", 5.0)


def test_an_exception_is_a_retry_and_its_traceback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        result = run(fulfil, {"id": "broken", "quantity": 1})
    assert (result.outcome, result.reason) == ("retry", "fulfil raised ValueError: no such article")
    assert 'raise ValueError("no such article")' in caplog.text
    assert 'crossdock.py", line' not in caplog.text


def test_data_that_does_not_fit_is_rejected_or_an_invalid_argument() -> None:
    wrong = run(fulfil, {"id": "7", "quantity": "two"})
    assert wrong.outcome == "reject"
    assert wrong.reason == 'the data does not fit fulfil: quantity: expected an integer, got "two"'
    refused = run(quote, b"{not json")
    assert (refused.outcome, refused.code) == ("error", "invalid_argument")
    assert refused.reason is not None and "line 1 column 2" in refused.reason
    assert run(quote, {"id": "7"}).reason == "the data does not fit quote: quantity: is missing"


def test_a_reply_is_json_text_bytes_nothing_or_a_response() -> None:
    @serve("replies")
    def reply(kind: str, ctx: Context) -> object:
        return {
            "json": [1, {"ü": None}],
            "text": "grüß",
            "bytes": b"\x00\xff",
            "nothing": None,
            "response": Response(
                {"a": 1}, status=201, headers={"Location": "/x"}, content_type="application/vnd.a+json"
            ),
            "status": Response(status=99),
            "nan": float("nan"),
            "object": object(),
        }[kind]

    assert run(reply, "json").reply == [1, {"ü": None}]
    assert (run(reply, "text").reply, run(reply, "text").content_type) == ("grüß", "text/plain; charset=utf-8")
    assert run(reply, "bytes").reply == b"\x00\xff"
    assert run(reply, "nothing").reply is None
    response = run(reply, "response")
    assert (response.reply, response.status, response.headers) == ({"a": 1}, 201, {"location": "/x"})
    for wrong, why in [("status", "99"), ("nan", "JSON"), ("object", "object cannot be sent as JSON")]:
        failed = run(reply, wrong)
        assert failed.code == "service_failed" and failed.reason is not None and why in failed.reason


def test_a_request_brings_its_parts() -> None:
    @serve("parts")
    def parts(ctx: Context) -> object:
        return [
            ctx.method,
            ctx.path,
            ctx.params,
            ctx.query,
            ctx.user,
            ctx.message.headers,
            ctx.message.payload.decode(),
        ]

    result = run(
        parts,
        b"hi",
        method="PUT",
        path="/a/b",
        params={"owner": "a"},
        query="x=1&y=&x=2",
        user="ann",
        headers={"X-A": "1"},
    )
    assert result.reply == ["PUT", "/a/b", {"owner": "a"}, {"x": "2", "y": ""}, "ann", {"x-a": "1"}, "hi"]


def test_a_message_is_passed_on_as_it_came() -> None:
    @consume("incoming.*")
    def route(message: Message, ctx: Context) -> None:
        ctx.publish("outgoing", message)
        ctx.publish("outgoing", b"\x00raw")

    result = run(route, {"a": 1}, key="k", id="i", headers={"X-Event": "push"})
    same, raw = result.outputs
    assert (same.json(), same.key, same.id, same.headers) == ({"a": 1}, "k", "i", {"x-event": "push"})
    assert (raw.payload, raw.content_type, raw.key) == (b"\x00raw", None, None)


def test_a_service_asks_others() -> None:
    @serve("shop")
    def shop(ctx: Context) -> object:
        answer = ctx.invoke("quotes", {"id": "7", "quantity": 2}, timeout=1)
        typed = ctx.invoke("orders", returns=Order)
        return [answer, typed.quantity]

    services = {"quotes": quote, "orders": lambda data: Order("1", 4)}
    assert run(shop, services=services).reply == [{"price": 6}, 4]
    nobody = run(shop)
    assert nobody.code == "service_failed" and nobody.reason is not None and "nobody serves quotes" in nobody.reason
    bad = run(shop, services={"quotes": Response({"why": "no"}, status=404)})
    assert bad.reason is not None and "quotes replied with status 404" in bad.reason


def test_async_handlers_await_what_they_ask() -> None:
    @serve("async-shop")
    async def shop(ctx: Context) -> object:
        try:
            await ctx.invoke("nobody")
        except InvokeError as error:
            assert error.code == "unavailable"
        page = await ctx.read("stock", 1)
        return [await ctx.invoke("double", 21), [m.data for m in page.messages], page.next]

    sandbox = Sandbox({"double": lambda n: 2 * n})
    for n in range(3):
        sandbox.publish("stock", n)
    assert sandbox.run(shop).reply == [42, [1, 2], 3]


def test_an_async_handler_is_cancelled_at_its_deadline() -> None:
    import asyncio

    @consume("slow")
    async def slow(data: dict[str, int]) -> None:
        await asyncio.sleep(10)

    result = run(slow, {}, timeout=0.05)
    assert result.outcome == "retry" and result.reason is not None and "slow took longer than 0.05 s" in result.reason


def test_what_one_call_publishes_a_later_one_reads() -> None:
    @consume("visits")
    def count(message: Message, ctx: Context) -> None:
        ctx.publish("counts", b"", key=message.text)

    @serve("counts")
    def counts(ctx: Context) -> dict[str, int]:
        totals: dict[str, int] = {}
        start = 0
        while True:
            page = ctx.read("counts", start, max=1)
            if not page.messages:
                return totals
            for message in page.messages:
                assert message.key is not None and message.offset == start
                totals[message.key] = totals.get(message.key, 0) + 1
            start = page.next

    sandbox = Sandbox()
    for visit in ["a", "b", "a"]:
        assert sandbox.run(count, visit).outcome == "ack"
    assert sandbox.run(counts).reply == {"a": 2, "b": 1}
    unknown = run(counts)
    assert unknown.reason is not None and "there is no topic counts" in unknown.reason


def test_publishing_what_cannot_be_published_says_why() -> None:
    @consume("any")
    def wrong(data: object, ctx: Context) -> None:
        with pytest.raises(ValueError, match="cannot name a topic"):
            ctx.publish("a b", {})
        with pytest.raises(TypeError, match="key is 7; it must be a str"):
            ctx.publish("a", {}, key=7)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="object cannot be sent as JSON"):
            ctx.publish("a", {"x": object()})
        with pytest.raises(ValueError, match="id has 0 bytes"):
            ctx.publish("a", {}, id="")
        with pytest.raises(ValueError, match="deliver_in"):
            ctx.publish("a", {}, deliver_in=-1)

    assert run(wrong, {}).outcome == "ack"


def test_marking_what_cannot_be_a_handler_says_why() -> None:
    with pytest.raises(TypeError, match="say which topics"):
        consume()
    with pytest.raises(ValueError, match="not a topic"):
        consume("a..b")
    with pytest.raises(TypeError, match="say which topics"):
        consume(fulfil)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="serve"):
        serve(fulfil)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="generator"):

        @consume("a")
        def several(data: object) -> object:
            yield data

    def unreadable(data: logging.Logger) -> None: ...

    def two(first: int, second: int) -> None: ...

    cases: list[tuple[Any, str]] = [(unreadable, "JSON cannot be read as Logger"), (two, "more than one parameter")]
    for function, why in cases:
        with pytest.raises(TypeError, match=why):
            crossdock._Handler("serve", function, {}, None, None).check()
