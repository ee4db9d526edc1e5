"""Write services for Crossdock: plain functions that consume topics and answer requests.

    from dataclasses import dataclass
    from crossdock import Context, Reject, Retry, consume, serve

    @dataclass
    class Order:
        id: str
        quantity: int

    @consume("orders")
    def fulfil(order: Order, ctx: Context) -> None:
        if order.quantity < 1:
            raise Reject("nothing was ordered")              # to the dead letters
        ctx.publish("shipments", {"order": order.id}, key=order.id)

    @serve()
    def quote(order: Order) -> dict:
        return {"price": 3 * order.quantity}

What a handler publishes becomes visible together with the acknowledgement of its message, or not at all. A
handler that raises fails the message, which comes again after a backoff and goes to the dead letters when it has
failed too often; so a handler must not mind a message that comes twice. Data that does not fit the annotated type
is rejected with the reason (a message) or refused as an invalid argument (a request). Handlers may be `async`.

`run` and `Sandbox` call a handler in a test, without a server:

    result = crossdock.run(fulfil, {"id": "7", "quantity": 2})
    assert result.outcome == "ack" and result.outputs[0].topic == "shipments"

From outside of a server, `connect` gives a client that publishes, consumes, invokes and reads, and `host` (or
`python -m crossdock run shop.py`) runs the same functions where it is started:

    with crossdock.connect("crossdock://127.0.0.1:7402", user="ada", password="...") as cd:
        cd.publish("orders", {"id": "7", "quantity": 2})

This file has no dependency but Python 3.9 and comes with the server, which runs it with a service's code.
"""

from __future__ import annotations

import base64
import collections
import collections.abc
import concurrent.futures
import dataclasses
import datetime as dt
import decimal
import enum
import gc
import importlib.util
import inspect
import io
import json
import logging
import mmap
import os
import re
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
import types
import typing
import urllib.parse
import uuid
from collections.abc import Mapping, Sequence
from typing import (
    Any,
    Callable,
    TypedDict,
    TypeVar,
    Union,
)

if typing.TYPE_CHECKING:
    from typing_extensions import Unpack

__version__ = "0.1.0"
__all__ = [
    "AsyncClient",
    "Client",
    "Consumer",
    "Context",
    "CrossdockError",
    "Delivery",
    "InvokeError",
    "Message",
    "MessageOptions",
    "Outgoing",
    "Page",
    "PublishOptions",
    "Receipt",
    "Reject",
    "Response",
    "Result",
    "Retry",
    "Sandbox",
    "connect",
    "consume",
    "host",
    "run",
    "serve",
]

Seconds = Union[int, float, dt.timedelta]
_F = TypeVar("_F", bound=Callable[..., Any])


# --- What handlers say ------------------------------------------------------------------------------------------


class Retry(Exception):
    """Raised by a consume handler: deliver the message again, after `after` (seconds or a timedelta) or after the
    subscription's backoff. It counts as a failure. In a serve handler the caller is told to try again later."""

    def __init__(self, reason: str = "the handler asked for a retry", *, after: Seconds | None = None) -> None:
        super().__init__(reason)
        self.reason = str(reason)
        self.after = None if after is None else _seconds("after", after)


class Reject(Exception):
    """Raised by a consume handler: never deliver the message again, put it to the dead letters with this reason.
    In a serve handler the caller is told that the request is invalid."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = str(reason)


class CrossdockError(Exception):
    """What was asked of a server was not done. `code` is one of the stable codes: `not_found`, `unavailable`,
    `timeout`, `overloaded`, `conflict`, `permission_denied`, `unauthenticated`, `invalid_argument`, `too_large`, ...;
    `message` says what is wrong, `hint` what to do next, and `retry_after` (seconds) when it is worth trying again."""

    def __init__(self, code: str, message: str, hint: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message if hint is None else f"{message}; {hint}")
        self.code = code
        self.message = message
        self.hint = hint
        self.retry_after = retry_after


class InvokeError(CrossdockError):
    """A request to a service, or the reading of a topic, failed. `code` can also be `service_failed`. `status` is the
    one of the reply, when a service replied with 400 or more."""

    def __init__(self, code: str, message: str, hint: str | None = None, status: int | None = None) -> None:
        super().__init__(code, message, hint)
        self.status = status


@dataclasses.dataclass
class Response:
    """A reply with a status and headers. The body is what a serve handler could return by itself."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    content_type: str | None = None


class Message:
    """A message as it lies in its topic, or a request as it came. All but `payload` may be None or empty."""

    __slots__ = (
        "payload", "topic", "offset", "attempt", "deliveries", "key", "id", "correlation_id", "reply_to",
        "content_type", "traceparent", "expires_at", "deliver_at", "priority", "headers",
        "_record", "_time", "_system",
    )  # fmt: skip

    payload: bytes
    topic: str | None
    offset: int | None
    attempt: int
    """Which try this is, from 1: one more than the failures so far."""
    deliveries: int
    key: str | None
    id: str | None
    correlation_id: str | None
    reply_to: str | None
    content_type: str | None
    traceparent: str | None
    expires_at: dt.datetime | None
    deliver_at: dt.datetime | None
    priority: int
    headers: dict[str, str]
    """By lower-case name; the values of a repeated one are joined by ", "."""
    _system: dict[str, str]

    def __init__(
        self,
        record: bytes,
        payload_bytes: int,
        topic: str | None = None,
        offset: int | None = None,
        time_ms: int | None = None,
        attempt: int = 1,
        deliveries: int = 1,
    ) -> None:
        self._record = record
        self.payload = record[len(record) - payload_bytes :]
        self.topic = topic
        self.offset = offset
        self._time = time_ms
        self.attempt = attempt
        self.deliveries = deliveries

    def __getattr__(self, name: str) -> Any:
        # Only what is looked at is taken apart: this is called for attributes that are not set yet.
        if name not in Message.__slots__:
            raise AttributeError(f"a Message has no attribute {name!r}")
        _unpack_record(self)
        return object.__getattribute__(self, name)

    def __repr__(self) -> str:
        place = "" if self.topic is None else f" {self.topic}@{self.offset}"
        return f"<Message{place} key={self.key!r} {self.content_type} {len(self.payload)} bytes>"

    @property
    def time(self) -> dt.datetime | None:
        """When it was stored."""
        return None if self._time is None else _moment(self._time)

    @property
    def text(self) -> str:
        """The payload as UTF-8 text."""
        return self.payload.decode()

    def json(self) -> Any:
        """The payload as JSON."""
        return json.loads(self.payload)

    @property
    def data(self) -> Any:
        """The payload as its content type says: JSON as data, text as str, anything else as bytes."""
        return _by_content(self)


@dataclasses.dataclass(frozen=True)
class Page:
    """A run of messages of a topic."""

    messages: list[Message]
    """In order; empty when there are no more for now."""
    next: int
    """The offset to go on from."""


class MessageOptions(TypedDict, total=False):
    """What can be said of a message that is published, beside its data: the keywords of `Context.publish`,
    `Delivery.publish` and `Outgoing`."""

    key: str | None
    id: str | None
    """Publishing the same thing twice with the same id stores it once."""
    headers: Mapping[str, str] | None
    content_type: str | None
    """Unless said, as the data is: bytes have none."""
    correlation_id: str | None
    reply_to: str | None
    priority: int
    """0 to 9."""
    deliver_in: Seconds | None
    """It is delivered only then."""
    expires_in: Seconds | None
    """From then on it is not delivered any more."""


class PublishOptions(MessageOptions, total=False):
    """The keywords of `Client.publish` and `send`, beside those of every message."""

    durability: str | None
    """How safe it is to be at least: "memory", "os", "fsync" or "quorum(n)"; unless said, as its topic asks."""
    expected_last: int | None
    """It is only stored if the topic's newest message has this offset (-1: if there is none), else it fails with
    `conflict`."""
    expected_last_of_key: int | None
    """The same for the newest message of its key, in a compacted topic."""
    timeout: Seconds
    """How long to wait, for the receipt or for room."""


class Context:
    """What a handler can do beside its work, and what is known of the call."""

    __slots__ = ("message", "deadline", "_outputs", "_runner", "_handler")

    message: Message
    """The message or request as it came."""
    deadline: float
    """When the call must have ended, as `time.monotonic()` counts. A handler that goes on is stopped."""

    def __init__(self, message: Message, handler: _Handler, runner: _Runner, budget: float) -> None:
        self.message = message
        self.deadline = time.monotonic() + budget
        self._outputs: dict[str, bytearray] = {}
        self._handler = handler
        self._runner = runner

    def publish(self, topic: str, data: Any, **options: Unpack[MessageOptions]) -> None:
        """Publishes a message when the handler succeeds, together with the acknowledgement of its own. The keywords
        are those of `MessageOptions`: key, id, headers, content_type, priority, deliver_in, ...

        Bytes are sent as they are, str as text, a Message as it came (with its key, id and headers unless others
        are given), and anything else (dict, list, dataclass...) as JSON. Raises ValueError or TypeError for what
        cannot be published.
        """
        _add_output(self._outputs, topic, _record_of(topic, data, self.message, **options))

    def invoke(self, service: str, data: Any = None, *, timeout: Seconds | None = None, returns: Any = None) -> Any:
        """Asks another service and gives its reply: JSON as data (or as the type `returns`), text as str, anything
        else as bytes. Waits until the handler's own deadline, or for `timeout`. In an async handler, await it.

        Raises InvokeError when nobody answers, in time or at all, or the service fails.
        """
        left = self.deadline - time.monotonic()
        wait = left if timeout is None else min(left, _seconds("timeout", timeout))
        return self._ask(_invoking(service, data, max(0.0, wait), returns, cause=self.message))

    def read(self, topic: str, start: int | str | dt.datetime = "start", *, max: int = 1000, wait: Seconds = 0) -> Any:
        """Messages of a topic, without a subscription: a Page of up to `max` from `start` on (an offset, "start",
        "end" or a datetime), waiting up to `wait` for the first one. In an async handler, await it. Raises
        InvokeError."""
        return self._ask(_reading(topic, start, max, wait))

    def _ask(self, question: _Question) -> Any:
        return self._runner.ask(question, self._handler.is_async)

    @property
    def log(self) -> logging.Logger:
        """The service's logger; what it is told reaches the service's log."""
        return logging.getLogger(self._runner.service)

    @property
    def time_left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    @property
    def method(self) -> str | None:
        """The method of an HTTP request, such as "POST"."""
        return self.message._system.get(":method")

    @property
    def path(self) -> str | None:
        """The path of an HTTP request."""
        return self.message._system.get(":path")

    @property
    def user(self) -> str | None:
        """The user that sent an HTTP request, when it was authenticated."""
        return self.message._system.get(":user")

    @property
    def params(self) -> dict[str, str]:
        """The parameters in the path of an HTTP request, by name."""
        return {n[7:]: v for n, v in self.message._system.items() if n.startswith(":param.")}

    @property
    def query(self) -> dict[str, str]:
        """The query of an HTTP request, by name; the last one of a repeated name."""
        return dict(urllib.parse.parse_qsl(self.message._system.get(":query", ""), keep_blank_values=True))


def consume(
    *topics: str,
    subscription: str | None = None,
    start: str | int | dt.datetime = "start",
    max_failures: int = 5,
    order: str | None = None,
    priorities: bool | None = None,
    sharing: str | None = None,
    filter: str | Mapping[str, Any] | None = None,
    timeout: Seconds | None = None,
    concurrency: int | None = None,
) -> Callable[[_F], _F]:
    """Marks a function as the handler of messages of some topics, given by name or pattern (`orders.*`, `github.**`).

    Its first parameter is the data: annotated with a dataclass, dict, list, str, bytes or Message, it is read as such;
    without an annotation, as its content type says. A parameter annotated with Context, or named ctx, gets that.

    subscription   keeps the place; "<service>.<function>" unless said. Functions, services and servers that share
                   one share its messages.
    start          where a new subscription begins: "start", "end", an offset, or a datetime
    max_failures   after so many a message goes to the dead letters
    order          "key": messages of one key one after another, the next when the one before it is settled
    priorities     True: messages of higher priority overtake others that wait
    sharing        "failover" or "exclusive": one consumer at a time gets messages, not all of them
    filter         only these messages: a jq program such as ".total > 100", or {"headers": {...}, "jq": ...}
    timeout        how long one call may take; unless said, as the service's settings say
    concurrency    how many calls may be under way in one process; 1 for plain functions and 64 for async ones
    """
    if not topics or not all(isinstance(topic, str) for topic in topics):
        raise TypeError('say which topics it consumes, as in @consume("orders")')
    for topic in topics:
        if not _PATTERN.match(topic):
            raise ValueError(
                f"{topic!r} is not a topic or pattern: use segments joined by '.', '*' for one, '**' for many"
            )
    if subscription is not None and not _NAME.match(subscription):
        raise ValueError(f"{subscription!r} cannot name a subscription")
    place: Any = start
    if isinstance(start, dt.datetime):
        if start.tzinfo is None:
            raise ValueError("start has no time zone: use datetime(..., tzinfo=timezone.utc)")
        place = {"time": start.astimezone(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
    elif isinstance(start, int) and not isinstance(start, bool) and start >= 0:
        place = {"offset": start}
    elif start not in ("start", "end"):
        raise ValueError(f'{start!r} is no place to start: use "start", "end", an offset or a datetime')
    if not isinstance(max_failures, int) or not 1 <= max_failures <= 1_000_000:
        raise ValueError("max_failures can be 1 to 1000000")
    if isinstance(filter, str):
        filter = {"jq": filter}
    spec = {
        "topics": list(topics), "subscription": subscription, "start": place, "max_failures": max_failures,
        "order": _one_of("order", order, "none", "key"), "priorities": priorities,
        "sharing": _one_of("sharing", sharing, "shared", "failover", "exclusive"),
        "filter": None if filter is None else dict(filter),
    }  # fmt: skip

    def mark(function: _F) -> _F:
        _handlers.append(_Handler("consume", function, spec, timeout, concurrency))
        return function

    return mark


def _one_of(name: str, value: str | None, *allowed: str) -> str | None:
    if value is not None and value not in allowed:
        raise ValueError(f"{name} is {value!r}; it can be {' or '.join(map(repr, allowed))}")
    return value


def serve(
    name: str | None = None, *, timeout: Seconds | None = None, concurrency: int | None = None
) -> Callable[[_F], _F]:
    """Marks a function as the one that answers requests to `name`, or to the service's own name.

    Its parameters are as those of a consume handler. What it returns is the reply: a dict, list, dataclass... is
    sent as JSON, str as text, bytes as they are, None as an empty reply, and Response says more. timeout and
    concurrency are as with `consume`.
    """
    if name is not None and (not isinstance(name, str) or not _NAME.match(name)):
        raise ValueError(f'{name!r} cannot name a service: write @serve() or @serve("name")')

    def mark(function: _F) -> _F:
        _handlers.append(_Handler("serve", function, {"name": name}, timeout, concurrency))
        return function

    return mark


# --- Handlers ---------------------------------------------------------------------------------------------------

_SEGMENT = r"[A-Za-z0-9_-]+"
_NAME = re.compile(rf"{_SEGMENT}(\.{_SEGMENT})*\Z")
_PATTERN = re.compile(rf"({_SEGMENT}|\*\*?)(\.({_SEGMENT}|\*\*?))*\Z")
_ASYNC_CONCURRENCY = 64


class _Handler:
    """A marked function, and how to call it."""

    def __init__(
        self,
        kind: str,
        function: Callable[..., Any],
        spec: dict[str, Any],
        timeout: Seconds | None,
        concurrency: int | None,
    ) -> None:
        if not callable(function) or isinstance(function, type):
            raise TypeError(f"@{kind} marks functions, not {function!r}")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function.__name__} is a generator; a handler returns, or publishes with its context")
        self.kind = kind
        self.function = function
        self.name: str = getattr(function, "__name__", repr(function))
        self.spec = spec
        self.is_async = inspect.iscoroutinefunction(function)
        self.timeout = None if timeout is None else _seconds("timeout", timeout)
        if self.timeout is not None and not 0.001 <= self.timeout <= 3600:
            raise ValueError("timeout can be 1 ms to 1 h")
        if concurrency is None:
            concurrency = _ASYNC_CONCURRENCY if self.is_async else 1
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or not 1 <= concurrency <= 4096:
            raise ValueError("concurrency can be 1 to 4096")
        self.concurrency = concurrency
        self.warned = False
        self.budget = 30.0
        """How long a call may take, in seconds, when the one who asks does not say."""
        self.subscription = ""
        self.quick = b""
        """How the frame begins that acknowledges a message and nothing more."""
        self._arguments: Callable[[Message, Context], tuple[Any, ...]] | None = None

    def manifest(self, service: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"kind": self.kind, "function": self.name, "concurrency": self.concurrency}
        if self.timeout is not None:
            entry["timeout"] = f"{max(1, round(self.timeout * 1000))}ms"
        entry.update({k: v for k, v in self.spec.items() if v is not None})
        if self.kind == "consume":
            entry.setdefault("subscription", f"{service}.{self.name}")
        return entry

    def settle_in(self, service: str, timeout: float) -> None:
        """It is going to run, for this service, with this timeout unless it has its own."""
        self.budget = timeout if self.timeout is None else self.timeout
        self.subscription = self.manifest(service).get("subscription", "")
        self.quick = b"\x96\x11\x00" + _pack(self.subscription) + b"\x91\x97\x00"

    def call(
        self,
        log: int,
        token: int,
        record: bytes,
        size: int,
        topic: str,
        offset: int,
        time: int,
        attempt: int,
        count: int,
    ) -> _Call:
        """The call that a delivery asks for."""
        return _Call(self, token, self.budget, Message(record, size, topic, offset, time, attempt, count), log)

    def arguments(self, message: Message, ctx: Context) -> tuple[Any, ...]:
        """What to call the function with. Raises _Misfit."""
        if self._arguments is None:
            self._arguments = self._plan()
        return self._arguments(message, ctx)

    def check(self) -> None:
        """Works out how to call the function; raises TypeError when that cannot be done."""
        self._arguments = self._plan()

    def _plan(self) -> Callable[[Message, Context], tuple[Any, ...]]:
        try:
            hints = typing.get_type_hints(self.function)
        except Exception as error:
            raise TypeError(f"the annotations of {self.name} cannot be understood: {error}") from error
        order: list[str] = []
        read: Callable[[Message], Any] = lambda message: None
        for parameter in inspect.signature(self.function).parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                if parameter.kind == parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
                    raise TypeError(f"{self.name} needs the keyword {parameter.name}, which nothing would give it")
                continue
            hint = hints.get(parameter.name, inspect.Parameter.empty)
            if hint is Context or parameter.name in ("ctx", "context"):
                order.append("context")
            elif "data" not in order:
                order.append("data")
                read = _payload_reader(hint)
            elif parameter.default is parameter.empty:
                raise TypeError(f"{self.name} has more than one parameter for data: {parameter.name}")
            else:
                break
        if order.count("context") > 1:
            raise TypeError(f"{self.name} has more than one parameter for the context")
        if order == ["data", "context"]:
            return lambda message, ctx: (read(message), ctx)
        if order == ["data"]:
            return lambda message, ctx: (read(message),)
        if order == ["context", "data"]:
            return lambda message, ctx: (ctx, read(message))
        if order == ["context"]:
            return lambda message, ctx: (ctx,)
        return lambda message, ctx: ()


_handlers: list[_Handler] = []


# --- Data in and out --------------------------------------------------------------------------------------------


class _Misfit(Exception):
    """Data that does not fit a type, with the way to the place."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.path: list[str] = []

    def at(self, step: str) -> _Misfit:
        self.path.append(step)
        return self

    def __str__(self) -> str:
        path = "".join(reversed(self.path)).lstrip(".")
        return f"{path}: {self.what}" if path else self.what


def _show(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value) if isinstance(value, (str, bool)) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _payload_reader(hint: Any) -> Callable[[Message], Any]:
    """How to turn a message into what a parameter with this annotation takes."""
    if hint is inspect.Parameter.empty or hint is Any or hint is object:
        return _by_content
    if hint is Message:
        return lambda message: message
    if hint is bytes:
        return lambda message: message.payload
    if hint is str:
        return _read_text
    reader = _reader(hint)

    def read(message: Message) -> Any:
        return reader(_read_json(message.payload))

    return read


def _read_text(message: Message) -> str:
    try:
        return message.payload.decode()
    except UnicodeDecodeError as error:
        raise _Misfit(f"expected text, but it is not UTF-8 at byte {error.start}") from None


def _read_json(payload: bytes) -> Any:
    if not payload:
        raise _Misfit("expected JSON, but there is nothing")
    try:
        return json.loads(payload)
    except UnicodeDecodeError as error:
        raise _Misfit(f"expected JSON, but it is not UTF-8 at byte {error.start}") from None
    except ValueError as error:
        raise _Misfit(f"expected JSON: {error}") from None
    except RecursionError:
        raise _Misfit("expected JSON, but it is nested too deeply") from None


def _is_json(content_type: str | None) -> bool:
    kind = (content_type or "").partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _by_content(message: Message) -> Any:
    kind = message.content_type
    if _is_json(kind):
        return _read_json(message.payload)
    if kind is not None and kind.lower().startswith("text/"):
        return _read_text(message)
    return message.payload


_Reader = Callable[[Any], Any]


def _expect(kind: type, words: str) -> _Reader:
    def read(value: Any) -> Any:
        if value.__class__ is kind:
            return value
        raise _Misfit(f"expected {words}, got {_show(value)}")

    return read


def _read_float(value: Any) -> float:
    if value.__class__ is float or value.__class__ is int:
        return float(value)
    raise _Misfit(f"expected a number, got {_show(value)}")


def _from_text(kind: Any, words: str, parse: Callable[[str], Any]) -> _Reader:
    def read(value: Any) -> Any:
        if isinstance(value, str):
            try:
                return parse(value)
            except (ValueError, ArithmeticError):
                pass
        raise _Misfit(f"expected {words}, got {_show(value)}")

    return read


def _parse_datetime(text: str) -> dt.datetime:
    # Before Python 3.11 fromisoformat knows neither Z nor fractions of other than 3 or 6 digits.
    text = re.sub(r"\.(\d{1,6})\d*", lambda m: "." + m.group(1).ljust(6, "0"), text)
    return dt.datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] in ("Z", "z") else text)


def _read_decimal(value: Any) -> decimal.Decimal:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        try:
            return decimal.Decimal(str(value))
        except ArithmeticError:
            pass
    raise _Misfit(f"expected a decimal number, got {_show(value)}")


_SIMPLE: dict[Any, _Reader] = {
    str: _expect(str, "a text"),
    int: _expect(int, "an integer"),
    bool: _expect(bool, "true or false"),
    float: _read_float,
    type(None): _expect(type(None), "null"),
    bytes: _from_text(bytes, "bytes in base64", lambda text: base64.b64decode(text, validate=True)),
    dt.datetime: _from_text(dt.datetime, "a moment like 2026-11-22T17:00:00Z", _parse_datetime),
    dt.date: _from_text(dt.date, "a date like 2026-11-22", dt.date.fromisoformat),
    dt.time: _from_text(dt.time, "a time like 17:00:00", dt.time.fromisoformat),
    uuid.UUID: _from_text(uuid.UUID, "a UUID", uuid.UUID),
    decimal.Decimal: _read_decimal,
    dict: _expect(dict, "an object"),
    list: _expect(list, "a list"),
}
_dataclass_readers: dict[type, _Reader] = {}


def _reader(hint: Any) -> _Reader:
    """How to read a JSON value as this type. Raises TypeError for a type that JSON cannot be read as."""
    if hint is Any or hint is object:
        return lambda value: value
    simple = _SIMPLE.get(hint) if isinstance(hint, type) else None
    if simple is not None:
        return simple
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hasattr(hint, "__supertype__"):  # a NewType
        return _reader(hint.__supertype__)
    if hasattr(hint, "__metadata__"):  # Annotated
        return _reader(arguments[0])
    if origin is Union or origin is getattr(types, "UnionType", Union):
        return _union_reader(arguments)
    if origin is typing.Literal:
        return _literal_reader(arguments)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _dataclass_reader(hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enum_reader(hint)
    if hasattr(hint, "__total__") and hasattr(hint, "__annotations__"):  # a TypedDict says what is there, no more
        return _SIMPLE[dict]
    if origin in (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection):
        return _list_reader(arguments[0], list)
    if origin in (set, frozenset, collections.abc.Set):
        return _list_reader(arguments[0], frozenset if origin is frozenset else set)
    if origin is tuple:
        return _tuple_reader(arguments)
    if origin in (dict, collections.abc.Mapping, collections.abc.MutableMapping):
        return _dict_reader(*arguments)
    if hint in (set, frozenset, tuple):
        return _list_reader(Any, hint)
    raise TypeError(
        f"JSON cannot be read as {getattr(hint, '__name__', hint)}; use a dataclass, dict, list or a plain type"
    )


def _list_reader(hint: Any, make: Callable[[list[Any]], Any]) -> _Reader:
    read_one = _reader(hint)

    def read(value: Any) -> Any:
        if value.__class__ is not list:
            raise _Misfit(f"expected a list, got {_show(value)}")
        result = []
        for element in value:
            try:
                result.append(read_one(element))
            except _Misfit as misfit:
                raise misfit.at(f"[{len(result)}]")
        return result if make is list else make(result)

    return read


def _tuple_reader(hints: tuple[Any, ...]) -> _Reader:
    if len(hints) == 2 and hints[1] is Ellipsis:
        return _list_reader(hints[0], tuple)
    readers = [_reader(hint) for hint in hints if hint != ()]

    def read(value: Any) -> Any:
        if value.__class__ is not list or len(value) != len(readers):
            raise _Misfit(f"expected a list of {len(readers)}, got {_show(value)}")
        result = []
        for read_one, element in zip(readers, value):
            try:
                result.append(read_one(element))
            except _Misfit as misfit:
                raise misfit.at(f"[{len(result)}]")
        return tuple(result)

    return read


def _dict_reader(key_hint: Any, value_hint: Any) -> _Reader:
    read_value = _reader(value_hint)
    if key_hint in (str, Any):
        read_key: _Reader | None = None
    elif key_hint is int:
        read_key = _from_text(int, "an integer as the key", int)
    else:
        read_key = _reader(key_hint)

    def read(value: Any) -> Any:
        if value.__class__ is not dict:
            raise _Misfit(f"expected an object, got {_show(value)}")
        result = {}
        for key, element in value.items():
            try:
                name = key if read_key is None else read_key(key)
                result[name] = read_value(element)
            except _Misfit as misfit:
                raise misfit.at(f".{key}")
        return result

    return read


def _union_reader(hints: tuple[Any, ...]) -> _Reader:
    readers = [_reader(hint) for hint in hints if hint is not type(None)]
    optional = len(readers) < len(hints)
    if len(readers) == 1:
        only = readers[0]
        return lambda value: None if value is None else only(value)

    def read(value: Any) -> Any:
        if value is None and optional:
            return None
        reasons = []
        for read_one in readers:
            try:
                return read_one(value)
            except _Misfit as misfit:
                reasons.append(str(misfit))
        raise _Misfit(" or ".join(reasons))

    return read


def _literal_reader(values: tuple[Any, ...]) -> _Reader:
    def read(value: Any) -> Any:
        for allowed in values:
            if value == allowed and value.__class__ is allowed.__class__:
                return value
        raise _Misfit(f"expected one of {', '.join(_show(v) for v in values)}, got {_show(value)}")

    return read


def _enum_reader(hint: Any) -> _Reader:
    members = {member.value: member for member in hint if isinstance(member.value, (str, int, float))}

    def read(value: Any) -> Any:
        try:
            return members[value]
        except (KeyError, TypeError):
            known = ", ".join(_show(v) for v in members)
            raise _Misfit(f"expected one of {known}, got {_show(value)}") from None

    return read


def _dataclass_reader(hint: Any) -> _Reader:
    known = _dataclass_readers.get(hint)
    if known is not None:
        return known
    # A dataclass may contain itself: what reads it is known before what reads its fields is.
    _dataclass_readers[hint] = lambda value: read(value)
    try:
        hints = typing.get_type_hints(hint)
        fields: list[tuple[str, _Reader]] = []
        needed: list[str] = []
        for field in dataclasses.fields(hint):
            if not field.init:
                continue
            try:
                fields.append((field.name, _reader(hints[field.name])))
            except TypeError as error:
                raise TypeError(f"{hint.__name__}.{field.name}: {error}") from None
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                needed.append(field.name)
    except NameError as error:
        del _dataclass_readers[hint]
        raise TypeError(f"the annotations of {hint.__name__} cannot be understood: {error}") from error
    except TypeError:
        del _dataclass_readers[hint]
        raise

    def read(value: Any) -> Any:
        if value.__class__ is not dict:
            raise _Misfit(f"expected an object ({hint.__name__}), got {_show(value)}")
        arguments = {}
        for name, read_field in fields:
            if name in value:
                try:
                    arguments[name] = read_field(value[name])
                except _Misfit as misfit:
                    raise misfit.at(f".{name}")
        if len(arguments) < len(fields):
            for name in needed:
                if name not in arguments:
                    raise _Misfit("is missing").at(f".{name}")
        try:
            return hint(**arguments)
        except (TypeError, ValueError) as error:  # its __post_init__ does not like it
            raise _Misfit(str(error)) from error

    _dataclass_readers[hint] = read
    return read


def _plain(value: Any) -> Any:
    """What the JSON encoder is to write for a value it does not know."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (dt.datetime, dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (uuid.UUID, decimal.Decimal)):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if isinstance(value, collections.abc.Mapping):
        return dict(value)
    raise TypeError(f"{value.__class__.__name__} cannot be sent as JSON")


_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=_plain, allow_nan=False).encode


def _encode(data: Any) -> tuple[bytes, str | None]:
    """The payload and content type of what a handler publishes or returns."""
    if data is None:
        return b"", None
    if isinstance(data, bytes):
        return data, None
    if isinstance(data, str) and not isinstance(data, enum.Enum):
        return data.encode(), "text/plain; charset=utf-8"
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data), None
    if isinstance(data, Message):
        return data.payload, data.content_type
    try:
        return _to_json(data).encode(), "application/json"
    except (ValueError, RecursionError) as error:
        raise TypeError(f"this {data.__class__.__name__} cannot be sent as JSON: {error}") from error


def _seconds(name: str, value: Seconds) -> float:
    seconds = value.total_seconds() if isinstance(value, dt.timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e9:
        raise ValueError(f"{name} is {value!r}; give seconds or a timedelta, 0 or more")
    return float(seconds)


def _moment(milliseconds: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(0, dt.timezone.utc) + dt.timedelta(milliseconds=milliseconds)


# --- Records: messages as they travel and rest ------------------------------------------------------------------

_U16LE = struct.Struct("<H")
_U32LE = struct.Struct("<I")
_I64LE = struct.Struct("<q")
_U64LE = struct.Struct("<Q")
_MAX_FIELD = 1024
_MAX_HEADERS = 256
_MAX_HEADER_BYTES = 64 * 1024
_MAX_OUTPUT = 64 * 1024 * 1024
_TEXTS = ("key", "id", "correlation_id", "reply_to", "content_type", "traceparent")


def _pack_record(
    payload: bytes,
    expires_at: int | None = None,
    deliver_at: int | None = None,
    priority: int = 0,
    key: str | None = None,
    id: str | None = None,
    correlation_id: str | None = None,
    reply_to: str | None = None,
    content_type: str | None = None,
    traceparent: str | None = None,
    headers: Mapping[str, str] | Sequence[tuple[str, str]] | None = None,
) -> bytes:
    """A packed record: u16 of which parts are there, then the parts, then the payload; little-endian."""
    if len(payload) > _MAX_OUTPUT:
        raise ValueError(f"a payload of {len(payload)} bytes, the limit is {_MAX_OUTPUT}")
    fields = 0
    parts = [b""]
    if expires_at is not None:
        fields |= 1
        parts.append(_I64LE.pack(expires_at))
    if deliver_at is not None:
        fields |= 2
        parts.append(_I64LE.pack(deliver_at))
    if priority:
        if not 0 <= priority <= 9:
            raise ValueError(f"priority {priority!r} is not one of 0 to 9")
        fields |= 4
        parts.append(bytes((priority,)))
    bit = 8
    for text in (key, id, correlation_id, reply_to, content_type, traceparent):
        if text is not None:
            if not isinstance(text, str):
                raise TypeError(f"{_TEXTS[bit.bit_length() - 4]} is {text!r}; it must be a str")
            raw = text.encode()
            if len(raw) > _MAX_FIELD or (bit == 16 and not raw):
                raise ValueError(f"{_TEXTS[bit.bit_length() - 4]} has {len(raw)} bytes; it can have 1 to {_MAX_FIELD}")
            fields |= bit
            parts.append(_U16LE.pack(len(raw)))
            parts.append(raw)
        bit <<= 1
    if headers:
        pairs = list(headers.items() if isinstance(headers, collections.abc.Mapping) else headers)
        if len(pairs) > _MAX_HEADERS:
            raise ValueError(f"{len(pairs)} headers, the limit is {_MAX_HEADERS}")
        fields |= 512
        parts.append(_U16LE.pack(len(pairs)))
        total = 0
        for name, value in pairs:
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(f"header {name!r} is {value!r}; names and values must be str")
            for raw in (name.lower().encode(), value.encode()):
                total += len(raw)
                if total > _MAX_HEADER_BYTES:
                    raise ValueError(f"the headers have more than {_MAX_HEADER_BYTES} bytes")
                parts.append(_U16LE.pack(len(raw)))
                parts.append(raw)
    parts[0] = _U16LE.pack(fields)
    parts.append(payload)
    return b"".join(parts)


def _unpack_record(message: Message) -> None:
    """Sets all of a message's parts that its record holds."""
    record = message._record
    u16 = _U16LE.unpack_from
    fields = u16(record, 0)[0]
    at = 2
    message.expires_at = message.deliver_at = None
    message.priority = 0
    if fields & 1:
        message.expires_at = _moment(_I64LE.unpack_from(record, at)[0])
        at += 8
    if fields & 2:
        message.deliver_at = _moment(_I64LE.unpack_from(record, at)[0])
        at += 8
    if fields & 4:
        message.priority = record[at]
        at += 1
    bit = 8
    for name in _TEXTS:
        text = None
        if fields & bit:
            end = at + 2 + u16(record, at)[0]
            text = record[at + 2 : end].decode()
            at = end
        setattr(message, name, text)
        bit <<= 1
    headers: dict[str, str] = {}
    system: dict[str, str] = {}
    message.headers, message._system = headers, system
    if fields & 512:
        count = u16(record, at)[0]
        at += 2
        for _ in range(count):
            end = at + 2 + u16(record, at)[0]
            name = record[at + 2 : end].decode()
            at = end + 2 + u16(record, end)[0]
            value = record[end + 2 : at].decode()
            if name.startswith(":"):
                system[name] = value
            elif name in headers:
                headers[name] += ", " + value
            else:
                headers[name] = value


def _payload_bytes(record: bytes) -> int:
    """How long the payload at a record's end is."""
    fields = _U16LE.unpack_from(record, 0)[0]
    at: int = 2 + 8 * ((fields & 1) + (fields >> 1 & 1)) + (fields >> 2 & 1)
    texts = bin(fields >> 3 & 63).count("1")
    if fields & 512:
        for _ in range(texts):
            at += 2 + _U16LE.unpack_from(record, at)[0]
        texts = 2 * int(_U16LE.unpack_from(record, at)[0])
        at += 2
    for _ in range(texts):
        at += 2 + _U16LE.unpack_from(record, at)[0]
    return len(record) - at


def _record_of(
    topic: str,
    data: Any,
    cause: Message | None = None,
    *,
    key: str | None = None,
    id: str | None = None,
    headers: Mapping[str, str] | None = None,
    content_type: str | None = None,
    correlation_id: str | None = None,
    deliver_in: Seconds | None = None,
    expires_in: Seconds | None = None,
    **rest: Any,
) -> bytes:
    """What is published to a topic, as a packed record. The keywords are those of `MessageOptions`."""
    if not isinstance(topic, str) or not _NAME.match(topic):
        raise ValueError(f"{topic!r} cannot name a topic: use letters, digits, '_' and '-', joined by '.'")
    if rest.keys() - {"reply_to", "priority"}:
        raise TypeError(f"a message has no {', '.join(sorted(rest.keys() - {'reply_to', 'priority'}))}")
    if isinstance(data, Message):
        key = data.key if key is None else key
        id = data.id if id is None else id
        headers = data.headers if headers is None else headers
        correlation_id = data.correlation_id if correlation_id is None else correlation_id
    payload, kind = _encode(data)
    now = int(time.time() * 1000) if deliver_in is not None or expires_in is not None else 0
    traceparent = None
    if cause is not None:
        traceparent = cause.traceparent
        correlation_id = cause.correlation_id if correlation_id is None else correlation_id
    return _pack_record(
        payload,
        expires_at=None if expires_in is None else now + int(_seconds("expires_in", expires_in) * 1000),
        deliver_at=None if deliver_in is None else now + int(_seconds("deliver_in", deliver_in) * 1000),
        key=key,
        id=id,
        correlation_id=correlation_id,
        content_type=kind if content_type is None else content_type,
        traceparent=traceparent,
        headers=headers,
        **rest,
    )


def _add_output(outputs: dict[str, bytearray], topic: str, record: bytes) -> None:
    run = outputs.setdefault(topic, bytearray())
    if len(run) + len(record) > _MAX_OUTPUT:
        raise ValueError(f"one call can publish at most {_MAX_OUTPUT} bytes to a topic")
    run += _U32LE.pack(len(record))
    run += record


def _joined(outputs: Mapping[str, bytearray], who: str) -> tuple[list[tuple[str, int]], bytes]:
    total = sum(map(len, outputs.values()))
    if total > _MAX_OUTPUT:
        raise ValueError(f"{who} published {total} bytes in one call, the limit is {_MAX_OUTPUT}")
    return [(topic, len(run)) for topic, run in outputs.items()], b"".join(outputs.values())


# --- msgpack: as much of it as headers need ---------------------------------------------------------------------

_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")
_I64 = struct.Struct(">q")


def _pack(value: Any) -> bytes:
    if value is None:
        return b"\xc0"
    if value is True:
        return b"\xc3"
    if value is False:
        return b"\xc2"
    if isinstance(value, int):
        if 0 <= value < 128:
            return bytes((value,))
        if -32 <= value < 0:
            return bytes((256 + value,))
        return b"\xcf" + _U64.pack(value) if value >= 0 else b"\xd3" + _I64.pack(value)
    if isinstance(value, str):
        raw = value.encode(errors="replace")
        size = len(raw)
        if size < 32:
            return bytes((0xA0 | size,)) + raw
        return (b"\xda" + _U16.pack(size) if size < 65536 else b"\xdb" + _U32.pack(size)) + raw
    parts = [_pack(element) for element in value]
    size = len(parts)
    return (bytes((0x90 | size,)) if size < 16 else b"\xdc" + _U16.pack(size)) + b"".join(parts)


_SCALARS: dict[int, struct.Struct] = {
    0xCC: struct.Struct(">B"), 0xCD: _U16, 0xCE: _U32, 0xCF: _U64,
    0xD0: struct.Struct(">b"), 0xD1: struct.Struct(">h"), 0xD2: struct.Struct(">i"), 0xD3: _I64,
    0xCA: struct.Struct(">f"), 0xCB: struct.Struct(">d"),
}  # fmt: skip
_SIZES: dict[int, tuple[struct.Struct, bool]] = {
    0xD9: (struct.Struct(">B"), True), 0xDA: (_U16, True), 0xDB: (_U32, True),
    0xDC: (_U16, False), 0xDD: (_U32, False),
}  # fmt: skip


def _unpack(data: bytes, at: int) -> tuple[Any, int]:
    """The value at `at`, and where the next one begins."""
    tag = data[at]
    if tag < 0x80:
        return tag, at + 1
    at += 1
    if 0x90 <= tag < 0xA0:
        return _unpack_list(data, at, tag & 15)
    if tag >= 0xE0:
        return tag - 256, at
    if tag == 0xC0:
        return None, at
    scalar = _SCALARS.get(tag)
    if scalar is not None:
        return scalar.unpack_from(data, at)[0], at + scalar.size
    if tag < 0xC0:
        size = tag & 31
    elif tag in (0xC2, 0xC3):
        return tag == 0xC3, at
    elif tag in _SIZES:
        form, is_text = _SIZES[tag]
        size = form.unpack_from(data, at)[0]
        at += form.size
        if not is_text:
            return _unpack_list(data, at, size)
    else:
        raise ValueError(f"a header holds a value of kind {tag:#x}")
    return data[at : at + size].decode(), at + size


def _unpack_list(data: bytes, at: int, size: int) -> tuple[list[Any], int]:
    # The kinds that headers are full of are taken apart here: a call for each would take most of the time.
    values: list[Any] = []
    for _ in range(size):
        tag = data[at]
        if tag < 0x80:
            values.append(tag)
            at += 1
        elif tag == 0xCF:
            values.append(_U64.unpack_from(data, at + 1)[0])
            at += 9
        elif tag == 0xCE:
            values.append(_U32.unpack_from(data, at + 1)[0])
            at += 5
        elif tag == 0xCD:
            values.append(_U16.unpack_from(data, at + 1)[0])
            at += 3
        elif 0x90 <= tag < 0xA0:
            value, at = _unpack_list(data, at + 1, tag & 15)
            values.append(value)
        else:
            value, at = _unpack(data, at)
            values.append(value)
    return values, at


# --- Frames: a msgpack header and a raw payload -----------------------------------------------------------------

_VERSION = 1  # of the protocol; docs/PROTOCOL.md describes it
_PREFIX = struct.Struct(">II")  # the length of all that follows, the length of the header
_READ = 256 * 1024

# Kinds of headers. Where a client's and a server's share a number, the second answers the first.
_HELLO = _WELCOME = 1
_PING = 2
_DRAIN = 3
_CANCEL = _ABANDONED = 4
_HEALTH = 5
_PUBLISH = _RECEIPTS = 10
_READ_TOPIC = _PAGE = 11
_DELIVERIES = 14
_CONSUME = 15
_CREDIT = 16
_SETTLE = _SETTLED = 17
_EXTEND = 18
_INVOKE = _ANSWER = 19
_SERVE = _REQUEST = 20
_REPLY = 21
_CALL = _DONE = 22
_END = 23
_FAILED = 24
# Said only between a worker and a process that it has started.
_START = _READY = 60
_REFUSED = 61

_ACK, _RETRY, _RELEASE, _REJECT = 0, 1, 2, 3

_Header = list[Any]
_Frame = tuple[_Header, bytes]


def _frame(header: bytes, payload: bytes = b"") -> bytes:
    return _PREFIX.pack(4 + len(header) + len(payload), len(header)) + header + payload


class _Splitter:
    """Cuts what was read into frames."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 8

    def feed(self, data: bytes, out: Callable[[_Frame], None], limit: int = 1 << 32) -> None:
        self._have += len(data)
        if self._parts or self._have < self._need:
            self._parts.append(data)
            if self._have < self._need:
                return
            data = b"".join(self._parts)
            self._parts = []
        at, size = 0, len(data)
        self._need = 8
        while size - at >= 8:
            length, head = _PREFIX.unpack_from(data, at)
            end = at + 4 + length
            if end > size:
                if length > limit:
                    raise ValueError(f"a frame of {length} bytes, the limit is {limit}")
                self._need = end - at
                break
            out((_unpack(data, at + 8)[0], data[at + 8 + head : end]))
            at = end
        self._have = size - at
        if at < size:
            self._parts.append(data[at:])


# --- Calls ------------------------------------------------------------------------------------------------------

_MAX_REASON = 2000
_PATIENCE = 30.0  # how long to wait for what does not say
_JSON_REPLY = b"\x80\x00\x10\x00application/json"  # a record of nothing but this content type, and a payload


class _Question:
    """A request, and what is made of its answer, which is a frame in any case: `_FAILED` at least."""

    __slots__ = ("header", "payload", "finish", "within", "again", "ends", "future", "timer", "id")

    def __init__(
        self,
        header: Callable[[int], bytes],
        payload: bytes = b"",
        finish: Callable[[_Frame], Any] = lambda answer: answer,
        within: float = _PATIENCE,
        again: bool = False,
        ends: bool = False,
    ) -> None:
        self.header = header
        """Its header, with this id."""
        self.payload = payload
        self.finish = finish
        self.within = within
        """After so many seconds there is an answer."""
        self.again = again
        """Whether it does no harm to ask twice."""
        self.ends = ends
        """Whether it ends something, and so is said even to a server that is about to go."""
        # Where it stands with a connection from outside:
        self.future: concurrent.futures.Future[_Frame]
        self.timer: Any = None
        self.id = 0


class _Runner:
    """Where calls run: it can put questions to a server."""

    service = "service"

    def ask(self, question: _Question, is_async: bool) -> Any:
        """Asks, and gives what `finish` makes of the answer; to an async handler, as an awaitable."""
        raise NotImplementedError


class _Call:
    """What a handler is to do."""

    __slots__ = ("handler", "id", "budget", "message", "log")

    def __init__(self, handler: _Handler, id: int, budget: float, message: Message, log: int = 0) -> None:
        self.handler = handler
        self.id = id
        """Of a request, as the server numbered it; of a delivery, its token."""
        self.budget = budget
        self.message = message
        self.log = log


def _request(handler: _Handler, header: _Header, record: bytes) -> _Call:
    return _Call(handler, header[1], header[3] / 1000, Message(record, header[4]))


_T = TypeVar("_T")


def _deliveries(header: _Header, run: bytes, make: Callable[..., _T]) -> list[_T]:
    """What `make` makes of each delivery of a frame: the arguments are its log and token, and then a Message's."""
    if len(header[3]) == 1:  # as a worker sends them
        topic, log, runs = header[2][0]
        offset, token, time_ms, attempt, deliveries, _ = runs[0]
        return [make(log, token, run[4:], header[3][0], topic, offset, time_ms, attempt, deliveries)]
    made = []
    at, number, sizes = 0, 0, header[3]
    for topic, log, runs in header[2]:
        for offset, token, time_ms, attempt, deliveries, count in runs:
            for more in range(count):
                begin = at + 4
                at = begin + _U32LE.unpack_from(run, at)[0]
                size = sizes[number]
                number += 1
                made.append(
                    make(log, token + more, run[begin:at], size, topic, offset + more, time_ms, attempt, deliveries)
                )
    return made


def _reading(topic: str, start: int | str | dt.datetime, max: int, wait: Seconds) -> _Question:
    """Asks for a Page."""
    if isinstance(start, dt.datetime) and start.tzinfo is not None:
        place, value = 3, int(start.timestamp() * 1000)
    elif isinstance(start, int) and not isinstance(start, bool) and start >= 0:
        place, value = 2, start
    elif start in ("start", "end"):
        place, value = int(start == "end"), 0
    else:
        raise ValueError(
            f'{start!r} is no place to read from: use an offset, "start", "end" or a datetime with its time zone'
        )
    if isinstance(max, bool) or not isinstance(max, int) or max < 1:
        raise ValueError(f"max is {max!r}; it can be 1 or more")
    pause = _seconds("wait", wait)
    return _Question(
        lambda id: _pack([_READ_TOPIC, id, topic, place, value, max, int(pause * 1000)]),
        finish=lambda answer: _read_page(topic, answer), within=pause + _PATIENCE, again=True,
    )  # fmt: skip


def _invoking(
    service: str,
    data: Any,
    timeout: Seconds = _PATIENCE,
    returns: Any = None,
    headers: Mapping[str, str] | None = None,
    cause: Message | None = None,
) -> _Question:
    """Asks for a service's reply."""
    payload, kind = _encode(data)
    wait = _seconds("timeout", timeout)
    correlation_id, traceparent = (None, None) if cause is None else (cause.correlation_id, cause.traceparent)
    record = _pack_record(
        payload, content_type=kind, headers=headers, correlation_id=correlation_id, traceparent=traceparent
    )
    reader = None if returns is None else _reader(returns)
    return _Question(
        lambda id: _pack([_INVOKE, id, service, int(wait * 1000)]), record,
        finish=lambda answer: _read_answer(service, answer, reader), within=wait + 1,
    )  # fmt: skip


def _calling(method: str, **arguments: Any) -> _Question:
    """Asks for what is asked rarely: its JSON."""
    text = _to_json({method: arguments}).encode()

    def finish(answer: _Frame) -> Any:
        header, payload = answer
        if header[0] == _FAILED:
            raise _error(header)
        return json.loads(payload[: header[2]])

    return _Question(lambda id: _pack([_CALL, id, len(text)]), text, finish, again=True)


class _Ended:
    """How a call ended."""

    __slots__ = ("verdict", "after_ms", "reason", "error", "runs", "payload")

    verdict: int
    after_ms: int | None
    """When it is to be tried again, if not by the backoff."""
    reason: str
    error: list[Any] | None
    """What the caller of a request is told instead of a reply: code, message, hint, retry after."""
    runs: list[tuple[str, int]]
    """The topics it published to, and how many bytes of the payload each one's records take."""
    payload: bytes
    """The outputs' records, and then the reply's."""

    def __init__(self, runs: list[tuple[str, int]], payload: bytes, verdict: int = _ACK) -> None:
        self.runs = runs
        self.payload = payload
        self.verdict = verdict
        self.after_ms = None
        self.reason = ""
        self.error = None


def _read_answer(service: str, answer: _Frame, reader: _Reader | None) -> Any:
    header, record = answer
    if header[0] == _FAILED:
        raise InvokeError(*header[2][:3])
    message = Message(record, header[2])
    status, body = _reply(message)
    if status >= 400:
        code = {400: "invalid_argument", 404: "not_found", 409: "conflict"}.get(status, "service_failed")
        text = message.payload[:200].decode(errors="replace")
        raise InvokeError(code, f"{service} replied with status {status}: {text}", status=status)
    if reader is not None:
        try:
            return reader(_read_json(message.payload))
        except _Misfit as misfit:
            raise InvokeError("service_failed", f"the reply of {service} does not fit: {misfit}") from None
    return body()


def _reply(message: Message) -> tuple[int, Callable[[], Any]]:
    """The status of a reply, and how to read what it holds."""
    status = int(message._system.get(":status", "200"))
    return status, lambda: None if not message.payload and message.content_type is None else message.data


def _read_page(topic: str, answer: _Frame) -> Page:
    header, run = answer
    if header[0] == _FAILED:
        raise InvokeError(*header[2][:3])
    messages, at = [], 0
    for offset, time_ms, count in header[3]:
        for more in range(count):
            end = at + 4 + _U32LE.unpack_from(run, at)[0]
            record = run[at + 4 : end]
            messages.append(Message(record, _payload_bytes(record), topic, offset + more, time_ms))
            at = end
    return Page(messages, header[2])


def _call(runner: _Runner, call: _Call) -> _Ended:
    """Calls a plain handler."""
    handler = call.handler
    ctx = Context(call.message, handler, runner, call.budget)
    try:
        return _finished(ctx, handler.function(*handler.arguments(call.message, ctx)))
    except Exception as error:
        return _failed(ctx, error)


async def _call_async(runner: _Runner, call: _Call) -> _Ended:
    """Calls an async handler, and cancels it at its deadline."""
    import asyncio

    handler = call.handler
    ctx = Context(call.message, handler, runner, call.budget)
    try:
        work = handler.function(*handler.arguments(call.message, ctx))
        try:
            return _finished(ctx, await asyncio.wait_for(work, call.budget))
        except asyncio.TimeoutError:
            if ctx.time_left > 0:
                raise
            raise TimeoutError(f"{handler.name} took longer than {call.budget:g} s") from None
    except Exception as error:
        return _failed(ctx, error)


_NOTHING = _Ended([], b"")


def _finished(ctx: Context, result: Any) -> _Ended:
    handler = ctx._handler
    if handler.kind == "consume":
        if result is not None and not handler.warned:
            handler.warned = True
            ctx.log.warning("%s returned a value, which goes nowhere; publish it with its context", handler.name)
        return _Ended(*_joined(ctx._outputs, handler.name)) if ctx._outputs else _NOTHING
    kind: str | None
    if isinstance(result, Response):
        payload, kind = _encode(result.body)
        headers = [(str(name), value) for name, value in result.headers.items()]
        if isinstance(result.status, bool) or not isinstance(result.status, int) or not 200 <= result.status <= 599:
            raise ValueError(f"a response's status is {result.status!r}; it can be 200 to 599")
        if any(name.startswith(":") for name, _ in headers):
            raise ValueError("the name of a response's header cannot begin with ':'")
        if result.status != 200:
            headers.append((":status", str(result.status)))
        record = _pack_record(payload, content_type=result.content_type or kind, headers=headers)
    else:
        payload, kind = _encode(result)
        if kind == "application/json":
            record = _JSON_REPLY + payload
        else:
            record = _pack_record(payload, content_type=kind)
    if not ctx._outputs:
        return _Ended([], record)
    runs, payload = _joined(ctx._outputs, handler.name)
    return _Ended(runs, payload + record)


def _failed(ctx: Context, error: Exception) -> _Ended:
    """What is told of a handler that raised; the traceback goes to the service's log."""
    handler = ctx._handler
    name = handler.name
    ended = _Ended([], b"", _RETRY)
    if isinstance(error, Retry):
        reason = error.reason
        ended.after_ms = None if error.after is None else int(error.after * 1000)
    elif isinstance(error, Reject):
        ended.verdict, reason = _REJECT, error.reason
    elif isinstance(error, _Misfit):
        ended.verdict, reason = _REJECT, f"the data does not fit {name}: {error}"
        if handler.kind == "serve":
            ctx.log.warning("%s", reason)  # of a message the worker says it, with when it is tried again
    else:
        reason = f"{name} raised {error.__class__.__name__}: {error}".rstrip(": ")
        message = ctx.message
        place = f"{message.topic}:{message.offset} attempt {message.attempt}: " if handler.kind == "consume" else ""
        ctx.log.error("%s%s raised\n%s", place, name, _traceback(error))
    ended.reason = reason = reason if len(reason) <= _MAX_REASON else reason[: _MAX_REASON - 3] + "..."
    if handler.kind == "consume":
        return ended
    if isinstance(error, Retry):
        after = ended.after_ms if ended.after_ms is not None else 1000
        ended.error = ["overloaded", reason, "try again later", after]
    elif ended.verdict == _REJECT:
        ended.error = ["invalid_argument", reason, None, None]
    else:
        hint = f"see its log: crossdock service logs {ctx._runner.service}"
        ended.error = ["service_failed", reason, hint, None]
    return ended


_QUICK_ACK = struct.Struct(">BIBQBQ5s")
_QUICK_REPLY = struct.Struct(">II3sQ2s")


def _said(call: _Call, ended: _Ended) -> bytes:
    """The frame that tells a worker how a call ended. A settlement has the id 0: no answer is wanted."""
    if call.handler.kind == "serve":
        if ended.error is None and not ended.runs:
            return _QUICK_REPLY.pack(17 + len(ended.payload), 13, b"\x94\x15\xcf", call.id, b"\xc0\x90") + ended.payload
        return _frame(_pack([_REPLY, call.id, ended.error, ended.runs]), ended.payload)
    offset = call.message.offset or 0
    if ended is _NOTHING:
        begin = call.handler.quick
        ack = _QUICK_ACK.pack(0xCE, call.log, 0xCF, offset, 0xCF, call.id, b"\x01\xc0\xa0\x90\xc0")
        return _PREFIX.pack(32 + len(begin), 28 + len(begin)) + begin + ack
    outcome = [ended.verdict, call.log, offset, call.id, 1, ended.after_ms, ended.reason]
    header = [_SETTLE, 0, call.handler.subscription, [outcome], ended.runs, None]
    return _frame(_pack(header), ended.payload)


def _traceback(error: BaseException) -> str:
    """A traceback without the frames of this file and of the import machinery."""
    formatted = traceback.TracebackException.from_exception(error)
    part: traceback.TracebackException | None = formatted
    while part is not None:
        part.stack[:] = [f for f in part.stack if f.filename != __file__ and "importlib" not in f.filename]
        part = part.__cause__ or part.__context__
    return "".join(formatted.format()).rstrip()


# --- Runners ----------------------------------------------------------------------------------------------------


class _Stderr(io.FileIO):
    """Standard error, in which a control character at the end of a line says where what a call writes begins; the
    worker takes it out again. It costs a system call, and is left out between quick calls that write nothing here.
    """

    _QUICK = 0.001
    _used = False
    _last = 0.0

    def write(self, data: Any) -> Any:
        self._used = True
        return super().write(data)

    def begin(self, now: float) -> None:
        # What takes its time may have written past this object, as a process it has started does.
        if self._used or now - self._last > self._QUICK:
            super().write(b"\x1e\n")
            self._used = False
        self._last = now


class _Process(_Runner):
    """Runs the handlers of a process that a worker has started, at the other end of whose socket the worker is."""

    def __init__(self, sock: socket.socket, service: str, handlers: Sequence[_Handler], stderr: _Stderr) -> None:
        self.service = service
        self._stderr = stderr
        self._sock = sock
        self._handlers = handlers
        self._splitter = _Splitter()
        self._outbox: list[bytes] = []
        self._questions = 0

    def run(self) -> None:
        """Runs what comes, until nothing more will."""
        raise NotImplementedError

    def _take(self, frame: _Frame) -> None:
        header, payload = frame
        kind = header[0]
        if kind == _REQUEST:
            self._begin(_request(self._handlers[header[2] - 1], header, payload))
        elif kind == _DELIVERIES:
            for call in _deliveries(header, payload, self._handlers[header[1] - 1].call):
                self._begin(call)
        elif kind in (_ANSWER, _PAGE, _FAILED):
            self._answered(header[1], frame)
        elif kind == _DRAIN:
            self._drain()

    def _begin(self, call: _Call) -> None:
        raise NotImplementedError

    def _answered(self, question: int, answer: _Frame) -> None:
        raise NotImplementedError

    def _drain(self) -> None:
        """No more will come."""
        raise NotImplementedError


class _Inline(_Process):
    """Runs plain handlers one after another in the main thread, which also reads and writes the socket: nothing is
    faster for one call. Replies are gathered while more calls have arrived, but never for long."""

    _GATHER = 0.0003

    def __init__(self, *process: Any, beacon: Any) -> None:
        super().__init__(*process)
        self._beacon = beacon
        self._inbox: collections.deque[_Call | None] = collections.deque()  # None: no more will come
        self._answers: dict[int, _Frame] = {}
        self._asking = threading.Lock()

    def run(self) -> None:
        inbox, outbox, beacon, stderr = self._inbox, self._outbox, self._beacon, self._stderr
        first = 0.0
        while True:
            if not inbox:
                self._flush()
                _U64LE.pack_into(beacon, 0, 0)
                if not self._fill():
                    return
                continue
            call = inbox.popleft()
            if call is None:
                self._flush()
                return
            now = time.monotonic()
            if not outbox:
                first = now
            elif now - first > self._GATHER:
                self._flush()
                first = now
            stderr.begin(now)
            _U64LE.pack_into(beacon, 0, call.id)
            outbox.append(_said(call, _call(self, call)))

    def _fill(self) -> bool:
        data = self._sock.recv(_READ)
        self._splitter.feed(data, self._take)
        return bool(data)

    def _begin(self, call: _Call) -> None:
        self._inbox.append(call)

    def _answered(self, question: int, answer: _Frame) -> None:
        self._answers[question] = answer

    def _drain(self) -> None:
        self._inbox.append(None)

    def _flush(self) -> None:
        if self._outbox:
            data = self._outbox[0] if len(self._outbox) == 1 else b"".join(self._outbox)
            self._outbox.clear()
            self._sock.sendall(data)

    def ask(self, question: _Question, is_async: bool) -> Any:
        with self._asking:
            self._questions += 1
            number = self._questions
            self._flush()
            self._sock.sendall(_frame(question.header(number), question.payload))
            while number not in self._answers:
                if not self._fill():
                    raise InvokeError("unavailable", "the server went away")
            answer = self._answers.pop(number)
        return question.finish(answer)


class _Loop(_Process):
    """Runs async handlers in an asyncio loop, and plain ones beside them in threads. Is the loop's protocol."""

    def __init__(self, *process: Any, threads: int) -> None:
        import asyncio
        import concurrent.futures

        super().__init__(*process)
        self._asyncio: Any = asyncio
        self._threads = concurrent.futures.ThreadPoolExecutor(max_workers=max(1, threads))
        self._waiting: dict[int, Any] = {}
        self._calls: set[Any] = set()
        self._draining = False

    def run(self) -> None:
        self._asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop = self._asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._transport, _ = await self._loop.create_connection(lambda: self, sock=self._sock)
        await self._ended
        self._flush()
        self._threads.shutdown(wait=False)

    def connection_made(self, transport: Any) -> None:
        pass

    def pause_writing(self) -> None:
        pass  # what can be written is bounded by the calls that are under way

    def resume_writing(self) -> None:
        pass

    def eof_received(self) -> None:
        self._end()

    def connection_lost(self, error: Exception | None) -> None:
        self._end()

    def data_received(self, data: bytes) -> None:
        self._splitter.feed(data, self._take)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _answered(self, question: int, answer: _Frame) -> None:
        waiting = self._waiting.pop(question, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def _drain(self) -> None:
        self._draining = True
        if not self._calls:
            self._end()

    def _begin(self, call: _Call) -> None:
        if not self._calls:
            self._stderr.begin(time.monotonic())
        if call.handler.is_async:
            work = self._loop.create_task(self._work(call))
        else:
            work = self._loop.run_in_executor(self._threads, lambda: _said(call, _call(self, call)))
        self._calls.add(work)
        work.add_done_callback(self._done)

    async def _work(self, call: _Call) -> bytes:
        return _said(call, await _call_async(self, call))

    def _done(self, call: Any) -> None:
        self._calls.discard(call)
        if not call.cancelled() and call.exception() is None:
            self._send(call.result())
        elif not call.cancelled():
            # Only what is meant to end the process gets here, such as SystemExit in a thread.
            self._ended.set_exception(call.exception())
            return
        if self._draining and not self._calls:
            self._end()

    def _send(self, frame: bytes) -> None:
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(frame)

    def _flush(self) -> None:
        if self._outbox:
            data = b"".join(self._outbox)
            self._outbox.clear()
            self._transport.write(data)

    async def _ask(self, question: _Question) -> Any:
        self._questions += 1
        number = self._questions
        answer = self._waiting[number] = self._loop.create_future()
        try:
            self._send(_frame(question.header(number), question.payload))
            return question.finish(await answer)
        finally:
            self._waiting.pop(number, None)

    def ask(self, question: _Question, is_async: bool) -> Any:
        work = self._ask(question)
        if is_async:
            return work
        return self._asyncio.run_coroutine_threadsafe(work, self._loop).result()


# --- The process ------------------------------------------------------------------------------------------------


def _main() -> None:
    """Runs a service's code for a worker, which is at the other end of standard input."""
    sock = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    frames: collections.deque[_Frame] = collections.deque()
    splitter = _Splitter()
    while not frames:
        data = sock.recv(_READ)
        if not data:
            return
        splitter.feed(data, frames.append)
    header, payload = frames.popleft()
    if header[0] != _START or header[1] != _VERSION:
        _refuse(sock, f"the worker speaks protocol {header[1]}, crossdock.py {__version__} speaks {_VERSION}")
        return
    start = json.loads(payload)
    _die_with_parent(sock)
    _limit_memory(start["memory"])
    stderr = _Stderr(2, "w", closefd=False)
    sys.stderr = io.TextIOWrapper(stderr, "utf-8", "backslashreplace", write_through=True)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    try:
        manifest = _load(start["service"], start["path"])
    except BaseException as error:  # also what calls sys.exit while it is imported
        _refuse(sock, str(error) if isinstance(error, _Unloadable) else _traceback(error))
        return
    for handler in _handlers:
        handler.settle_in(start["service"], start["timeout_ms"] / 1000)
    inline = not any(handler.is_async or handler.concurrency > 1 for handler in _handlers)
    credit = sum(handler.concurrency for handler in _handlers)
    sock.sendall(_frame(_pack([_READY, _VERSION, credit, inline]), _to_json(manifest).encode()))
    if start["inspect"]:
        return
    gc.collect()
    gc.freeze()  # what was imported stays for good: no need to look at it again and again
    process = (sock, start["service"], _handlers, stderr)
    runner: _Process
    if inline:
        runner = _Inline(*process, beacon=_open_beacon(start["beacon"]))
    else:
        runner = _Loop(*process, threads=sum(handler.concurrency for handler in _handlers if not handler.is_async))
    runner.run()


class _Unloadable(Exception):
    """Why code cannot be run, where a traceback would not help."""


def _load(service: str, path: str) -> dict[str, Any]:
    name = re.sub(r"\W", "_", os.path.basename(path)[: -len(".py")])
    if name in sys.modules or name in getattr(sys, "stdlib_module_names", ()):
        name = f"service_{name}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise _Unloadable(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return {"handlers": _check_handlers(service)}


def _check_handlers(service: str) -> list[dict[str, Any]]:
    """What the marked functions are, for a manifest. Raises _Unloadable."""
    if not _handlers:
        raise _Unloadable("there is no service in the file: mark a function with @consume(topic) or @serve()")
    manifest: list[dict[str, Any]] = []
    taken = set()
    for handler in _handlers:
        try:
            handler.check()
        except TypeError as error:
            raise _Unloadable(str(error)) from error
        entry = handler.manifest(service)
        place = (handler.kind, entry["subscription"] if handler.kind == "consume" else entry.get("name", service))
        if place in taken:
            what = "consume from subscription" if handler.kind == "consume" else "answer to"
            raise _Unloadable(f"two functions {what} {place[1]}: give one of them another name")
        taken.add(place)
        manifest.append(entry)
    return manifest


def _refuse(sock: socket.socket, why: str) -> None:
    sock.sendall(_frame(_pack([_REFUSED, _VERSION]), why.encode(errors="replace")[:65536]))


def _die_with_parent(sock: socket.socket) -> None:
    """Ends this process and what it started as soon as the worker is gone, whatever the main thread is doing."""

    def watch() -> None:
        poll = select.poll()
        poll.register(sock.fileno(), 0)  # only a hang-up
        poll.poll()
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpgrp(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="crossdock-hangup", daemon=True).start()


def _limit_memory(size: int) -> None:
    try:
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError) as error:
        print(f"the memory limit cannot be set here: {error}", file=sys.stderr)


def _open_beacon(path: str | None) -> Any:
    if path is None:
        return bytearray(8)
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), 8)


# --- Connections from outside: what every client of a server does ----------------------------------------------

_PORT = 7402
_MAX_FRAME = 80 * 1024 * 1024
_BATCH_BYTES = 512 * 1024  # what goes into one batch of messages that were sent one by one
_BATCH_MESSAGES = 4096
_BATCHES = 8  # batches to one topic without an answer: enough to keep the server busy, few enough to fill up
_UNANSWERED_BYTES = 64 * 1024 * 1024  # beyond it whoever sends waits
_OUTCOMES = 4096  # in one settlement

_log = logging.getLogger("crossdock")


@dataclasses.dataclass(frozen=True)
class Receipt:
    """What a publisher holds for one message: it is stored."""

    topic: str
    offset: int
    """Where it lies; for a duplicate, where the first one lies."""
    duplicate: bool
    """Whether its id had been stored before, so that nothing was stored now."""
    durability: str
    """How safe it is: "memory", "os", "fsync" or "quorum(n)"."""


class _Address:
    """Where a server is, and who is asking."""

    def __init__(
        self,
        url: str | None,
        user: str | None,
        password: str | None,
        api_key: str | None,
        ca_file: str | None,
        plain_credentials: bool,
        name: str,
    ) -> None:
        env = os.environ.get
        url = url or env("CROSSDOCK_BROKER_URL") or f"crossdock://127.0.0.1:{_PORT}"
        parts = urllib.parse.urlsplit(url)
        wrong = f"{url!r} is not a server's address: write it like crossdock://HOST:{_PORT}, or crossdocks:// with TLS"
        try:
            port = parts.port
        except ValueError:
            raise ValueError(wrong) from None
        if parts.scheme not in ("crossdock", "crossdocks") or not parts.hostname or parts.path not in ("", "/"):
            raise ValueError(wrong)
        if parts.username or parts.password:
            raise ValueError("an address holds no user or password: give them as arguments or in the environment")
        self.host = parts.hostname
        self.port = port or _PORT
        self.url = f"{parts.scheme}://{parts.netloc}"
        self.tls = parts.scheme == "crossdocks"
        self.context: Any = None
        if self.tls:
            import ssl

            ca_file = ca_file or env("CROSSDOCK_CA_FILE")
            try:
                self.context = ssl.create_default_context(cafile=ca_file)
            except OSError as error:
                raise ValueError(f"there are no certificates in {ca_file}: {error}") from None
        self.name = name
        api_key = api_key or (None if user else env("CROSSDOCK_API_KEY"))
        user = user or (None if api_key else env("CROSSDOCK_USER"))
        self.login: list[str | None] | None = None
        if api_key:
            self.login = [None, api_key]
        elif user:
            self.login = [user, password if password is not None else env("CROSSDOCK_PASSWORD", "")]
        near = self.host in ("localhost", "::1") or self.host.startswith("127.")
        if self.login is not None and not (self.tls or near or plain_credentials):
            raise ValueError(
                f"the password would be sent to {self.host} where others can read it: use crossdocks:// for an"
                " encrypted connection, or plain_credentials=True if the network is your own"
            )


class _Item:
    """Messages that somebody waits to see stored."""

    __slots__ = ("run", "count", "topic", "future", "durability", "expected", "alone")

    def __init__(
        self, topic: str, run: bytes, count: int, durability: int | None, expected: list[Any] | None, alone: bool
    ) -> None:
        self.topic = topic
        self.run = run
        self.count = count
        self.durability = durability
        self.expected = expected
        self.alone = alone
        """Whether one receipt is wanted, not a list."""
        self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()


class _Batch:
    """Messages that are stored in one piece, and sent again until that is known."""

    __slots__ = ("items", "size", "publisher", "sequence", "sent")

    def __init__(self, items: list[_Item]) -> None:
        self.items = items
        self.size = sum(len(item.run) for item in items)
        self.publisher = (0, 0)
        self.sequence = 0
        self.sent = 0


class _Lane:
    """What is on its way to one topic, in order."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.queue: collections.deque[_Item] = collections.deque()
        self.under_way: collections.deque[_Batch] = collections.deque()
        self.renew()

    def renew(self) -> None:
        """It becomes a publisher that the server knows nothing of."""
        self.publisher = (int.from_bytes(os.urandom(8), "big"), int.from_bytes(os.urandom(8), "big"))
        self.sequence = 0

    def name(self, batch: _Batch) -> None:
        batch.publisher, batch.sequence, batch.sent = self.publisher, self.sequence, 0
        self.sequence += 1

    def fill(self) -> _Batch:
        """The next batch, out of what is queued."""
        items = [self.queue.popleft()]
        size, count = len(items[0].run), items[0].count
        alike = (items[0].durability, items[0].expected)
        while self.queue and alike[1] is None:
            item = self.queue[0]
            size += len(item.run)
            count += item.count
            if size > _BATCH_BYTES or count > _BATCH_MESSAGES or (item.durability, item.expected) != alike:
                break
            items.append(self.queue.popleft())
        return _Batch(items)


class _Flow:
    """Something that a server sends as it comes. All but `__init__` runs in the connection's thread."""

    id = 0
    """Its number in the connection as it is; 0 when it does not flow."""

    def open(self, id: int) -> bytes:
        """The frame that opens it."""
        raise NotImplementedError

    def take(self, header: _Header, payload: bytes) -> None:
        """Something has come."""

    def lost(self) -> None:
        """The connection is no more."""

    def hurry(self) -> None:
        """The server is about to go, and waits for what is held here."""

    def failed(self, error: CrossdockError) -> bool:
        """It cannot flow. Gives whether to try again after a while."""
        return False

    def passes(self, error: CrossdockError, connection: _Connection, what: str, *more: str) -> bool:
        """Whether it is worth trying again; then the log says so."""
        passes = error.code in ("unavailable", "overloaded", "timeout", *more) and connection.session is not None
        if passes:
            _log.warning("cannot %s, will try again: %s", what, error)
        return passes


class _Session:
    """One stay at the server: asyncio's protocol."""

    def __init__(self, owner: _Connection) -> None:
        self._owner = owner
        self._splitter = _Splitter()
        self.transport: Any = None
        self.heard = self.said = time.monotonic()
        self.choked = False
        self.lost: Any = owner.loop.create_future()
        self.welcome: Any = owner.loop.create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(error)
        if not self.welcome.done():
            self.welcome.set_exception(error or ConnectionError("the server closed the connection"))
            self.welcome.exception()  # whoever wants to know has been told

    def eof_received(self) -> None:
        pass

    def pause_writing(self) -> None:
        self.choked = True

    def resume_writing(self) -> None:
        self.choked = False
        self._owner.pump_all()

    def data_received(self, data: bytes) -> None:
        self.heard = time.monotonic()
        try:
            self._splitter.feed(data, self._take, _MAX_FRAME)
        except Exception:  # a server that is not one, or our own fault: either way this stay is over
            _log.exception("what the server said is not understood")
            self.transport.abort()

    def _take(self, frame: _Frame) -> None:
        if self.welcome.done():
            self._owner.take(frame)
        else:
            self.welcome.set_result(frame)

    def send(self, *frames: bytes) -> None:
        self.said = time.monotonic()
        self.transport.write(frames[0] if len(frames) == 1 else b"".join(frames))


class _Connection:
    """A connection that is made again when it is lost, in a thread of its own. `ask`, `send` and `soon` may be called
    from any thread, what else there is only in its own."""

    def __init__(self, address: _Address) -> None:
        import asyncio

        self.address = address
        self.loop: Any = asyncio.new_event_loop()
        self.session: _Session | None = None
        self.ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.trouble: str = "nothing has been tried yet"
        self.draining = False
        """The server is about to go, and is asked for nothing new."""
        self.leaving = False
        """This side is about to go."""
        self.server = ""
        self._asyncio: Any = asyncio
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._work: collections.deque[Callable[[], None]] = collections.deque()
        self._woken = False
        self._ended: CrossdockError | None = None
        self._unanswered = 0
        self._unsettled = 0
        self._last_id = 0
        self._lanes: dict[str, _Lane] = {}
        self._answers: dict[int, Callable[[_Frame], None]] = {}
        self._questions: dict[int, _Question] = {}
        self._unasked: collections.deque[_Question] = collections.deque()
        self._flows: list[_Flow] = []
        self._flowing: dict[int, _Flow] = {}
        self._heartbeat = 0.0
        self._over: Any = self.loop.create_future()
        self._thread = threading.Thread(target=self._run, name="crossdock", daemon=True)
        self._thread.start()

    # From any thread

    def soon(self, work: Callable[[], None]) -> None:
        """Has the connection's thread do this. Raises CrossdockError when it has ended."""
        with self._lock:
            if self._ended is not None:
                raise self._ended
            self._work.append(work)
            if self._woken:
                return
            self._woken = True
        try:
            self.loop.call_soon_threadsafe(self._turn)
        except RuntimeError:  # it has ended since
            raise self._ended or _closed() from None

    def ask(self, question: _Question) -> concurrent.futures.Future[_Frame]:
        """Sends a request; the future resolves with the answer, which may be `_FAILED`."""
        question.future = concurrent.futures.Future()

        def begin() -> None:
            question.timer = self.loop.call_later(question.within, self._expire, question)
            self._ask(question)

        self.soon(begin)
        return question.future

    def get(self, question: _Question) -> Any:
        """Asks, waits for the answer, and gives what the question makes of it."""
        return question.finish(self.ask(question).result())

    async def get_async(self, question: _Question) -> Any:
        """The same for async code."""
        return question.finish(await self._asyncio.wrap_future(self.ask(question)))

    def call(self, method: str, **arguments: Any) -> Any:
        """Asks for what is asked rarely, waits for the answer and gives its JSON. Raises CrossdockError."""
        return self.get(_calling(method, **arguments))

    def send(self, item: _Item, patience: float) -> None:
        """Queues messages; waits for room."""
        size = len(item.run)
        with self._room:
            if self._unanswered and self._unanswered + size > _UNANSWERED_BYTES:
                room = self._room.wait_for(
                    lambda: self._unanswered + size <= _UNANSWERED_BYTES or not self._unanswered or self._ended,
                    patience,
                )
                if not room:
                    raise CrossdockError(
                        "overloaded",
                        f"{self._unanswered} bytes wait to be stored",
                        "send less, or wait for the receipts",
                    )
            self._unanswered += size
        try:
            self.soon(lambda: self._queue(item))
        except CrossdockError:
            self._answered(size)
            raise

    def settling(self, count: int) -> None:
        """So many settlements more are under way."""
        with self._room:
            self._unsettled += count
            self._room.notify_all()

    def close(self, patience: float) -> None:
        """Waits until all that was sent is stored, then ends. Raises CrossdockError when it is not stored in time."""
        with self._room:
            stored = self._room.wait_for(
                lambda: not (self._unanswered or self._unsettled) or self._ended is not None, patience
            )
        why = _closed()
        if not stored:
            why = CrossdockError(
                "timeout",
                f"the connection was closed before the server had said that everything is stored ({self.trouble})",
                "it may be or not; messages that are published again with the same id are stored once",
            )
        try:
            self.soon(lambda: self._end(why))
        except CrossdockError:
            pass
        if threading.current_thread() is not self._thread:
            self._thread.join(10)
        if not stored:
            raise why

    # In its own thread

    def _run(self) -> None:
        self._asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._keep())
        except Exception as error:
            _log.exception("the connection has failed")
            self._end(CrossdockError("internal", f"the connection has failed: {error!r}"))
        finally:
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    def _turn(self) -> None:
        with self._lock:
            work, self._work = self._work, collections.deque()
            self._woken = False
        for do in work:
            do()

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    async def _keep(self) -> None:
        """Connects, again and again."""
        failures = 0
        while self._ended is None:
            try:
                session = await self._asyncio.wait_for(self._connect(), 10)
            except (OSError, self._asyncio.TimeoutError, CrossdockError) as error:
                if self._is_final(error):
                    return
                failures += 1
            else:
                failures = 0
                beat = self.loop.create_task(self._beat(session))
                await self._asyncio.wait({session.lost, self._over}, return_when="FIRST_COMPLETED")
                beat.cancel()
                self._lose(session)
            if self._ended is None:
                pause = min(2.0, 0.05 * 2 ** min(failures, 10)) * (0.5 + os.urandom(1)[0] / 512)
                await self._asyncio.wait({self._over}, timeout=pause)

    def _is_final(self, error: Exception) -> bool:
        """Whether trying again would not help; then everything is told so."""
        import ssl

        if isinstance(error, CrossdockError):
            self.trouble = str(error)
            final = error if error.code in ("unauthenticated", "permission_denied", "invalid_argument") else None
        elif isinstance(error, ssl.SSLCertVerificationError):
            self.trouble = f"the server's certificate is not trusted: {error.verify_message}"
            hint = "name the certificate of who signed it as ca_file, or CROSSDOCK_CA_FILE"
            final = CrossdockError("unauthenticated", self.trouble, hint)
        else:
            self.trouble = str(error) or error.__class__.__name__
            final = None
        if final is not None:
            self._end(final)
        return final is not None

    async def _connect(self) -> _Session:
        address, context = self.address, self.address.context
        session = _Session(self)
        await self.loop.create_connection(
            lambda: session, address.host, address.port, ssl=context, server_hostname=address.host if context else None
        )
        try:
            session.send(_frame(_pack([_HELLO, 0, _VERSION, _VERSION, address.name, address.login])))
            header, _ = await session.welcome
            if header[0] == _FAILED:
                raise _error(header)
            if header[0] != _WELCOME or header[2] != _VERSION:
                raise CrossdockError("invalid_argument", f"the server speaks another protocol: {header!r}")
        except BaseException:
            session.transport.abort()
            raise
        self.server, self._heartbeat = header[3], header[4] / 1000
        self._begin(session)
        return session

    def _begin(self, session: _Session) -> None:
        """Goes on where the last stay ended."""
        self.session, self.draining = session, False
        for lane in self._lanes.values():
            for batch in lane.under_way:
                self._publish(lane, batch)
        for flow in self._flows:
            self._open(flow)
        unasked, self._unasked = self._unasked, collections.deque()
        for question in unasked:
            self._ask(question)
        self.pump_all()
        if not self.ready.done():
            self.ready.set_result(None)

    def _lose(self, session: _Session) -> None:
        session.transport.abort()
        if self.session is not session:
            return
        self.session = None
        self.trouble = "the connection was lost"
        self._answers.clear()
        self._flowing.clear()
        for flow in self._flows:
            flow.id = 0
            flow.lost()
        questions, self._questions = self._questions, {}
        for question in questions.values():
            if question.again:
                self._unasked.append(question)
            else:
                self._settle(question, _failure("unavailable", "the connection was lost before the answer came"))

    def _end(self, why: CrossdockError) -> None:
        with self._room:
            if self._ended is not None:
                return
            self._ended = why
            self._room.notify_all()
        session = self.session
        if session is not None:
            session.transport.close()
            self._lose(session)
        for question in self._unasked:
            self._settle(question, _failure(why.code, why.message, why.hint))
        self._unasked.clear()
        for lane in self._lanes.values():
            for item in [item for batch in lane.under_way for item in batch.items] + list(lane.queue):
                self._answered(len(item.run))
                item.future.set_exception(why)
            lane.under_way.clear()
            lane.queue.clear()
        for flow in list(self._flows):
            flow.failed(why)
        self._flows.clear()
        if not self.ready.done():
            self.ready.set_exception(why)
        if not self._over.done():
            self._over.set_result(None)

    async def _beat(self, session: _Session) -> None:
        """Says that this side is there, and looks whether the other one is."""
        if not self._heartbeat:
            return
        while True:
            await self._asyncio.sleep(self._heartbeat / 2)
            now = time.monotonic()
            if now - session.heard > 3 * self._heartbeat:
                session.transport.abort()
            elif now - session.said >= self._heartbeat / 2:
                session.send(_frame(_pack([_PING, 0])))

    def take(self, frame: _Frame) -> None:
        """Deals with what the server says."""
        header = frame[0]
        kind, id = header[0], header[1]
        if kind in (_REQUEST, _ABANDONED):  # these the server numbers
            for flow in list(self._flowing.values()):
                if kind == _ABANDONED or flow.id == header[2]:
                    flow.take(*frame)
        elif id in self._answers:
            self._answers.pop(id)(frame)
        elif id in self._flowing:
            flow = self._flowing[id]
            if kind in (_FAILED, _END):
                self._stopped(flow, header)
            else:
                flow.take(*frame)
        elif kind == _DRAIN:
            # The server closes the connection as soon as it has been told of all that is under way.
            self.draining = True
            for flow in self._flows:
                flow.hurry()
        elif kind == _FAILED and id == 0:
            self.trouble = str(_error(header))
            _log.warning("the server ends the connection: %s", self.trouble)

    def _stopped(self, flow: _Flow, header: _Header) -> None:
        del self._flowing[flow.id]
        flow.id = 0
        if header[0] == _END and (self.draining or self.leaving):
            return  # what it has brought can still be settled; it begins again with the next stay
        flow.lost()
        error = _error(header) if header[0] == _FAILED else CrossdockError("unavailable", "the server ended the flow")
        if flow in self._flows:
            if flow.failed(error):
                self.loop.call_later(1, self._open, flow)
            else:
                self._flows.remove(flow)

    # Requests

    def _ask(self, question: _Question) -> None:
        session = self.session
        if question.future.done():
            return
        if session is None or self.draining and not question.ends:
            self._unasked.append(question)
            return
        question.id = self.next_id()
        self._questions[question.id] = question
        self._answers[question.id] = lambda frame: self._settle(question, frame)
        session.send(_frame(question.header(question.id), question.payload))

    def _settle(self, question: _Question, answer: _Frame) -> None:
        self._questions.pop(question.id, None)
        if question.timer is not None:
            question.timer.cancel()
        if not question.future.done() and question.future.set_running_or_notify_cancel():
            question.future.set_result(answer)

    def _expire(self, question: _Question) -> None:
        if question in self._unasked:
            self._unasked.remove(question)
            text = f"{self.address.url} cannot be reached: {self.trouble}"
            self._settle(question, _failure("unavailable", text, "is the server running, and is this its address?"))
        elif self._questions.get(question.id) is question:
            del self._answers[question.id]
            if self.session is not None:
                self.session.send(_frame(_pack([_CANCEL, question.id])))
            self._settle(question, _failure("timeout", "the server did not answer in time"))

    # Publishing

    def _queue(self, item: _Item) -> None:
        lane = self._lanes.get(item.topic)
        if lane is None:
            lane = self._lanes[item.topic] = _Lane(item.topic)
        lane.queue.append(item)
        # What else is about to be queued comes into the same batch.
        if len(lane.queue) == 1:
            self.loop.call_soon(self._pump, lane)

    def pump_all(self) -> None:
        for lane in self._lanes.values():
            self._pump(lane)

    def _pump(self, lane: _Lane) -> None:
        session = self.session
        while lane.queue and session is not None and not self.draining and not session.choked:
            if len(lane.under_way) >= _BATCHES:
                return
            batch = lane.fill()
            lane.name(batch)
            lane.under_way.append(batch)
            self._publish(lane, batch)

    def _publish(self, lane: _Lane, batch: _Batch) -> None:
        assert self.session is not None
        first = batch.items[0]
        mine = [other.sequence for other in lane.under_way if other.publisher == batch.publisher]
        source = [*batch.publisher, batch.sequence, min(mine, default=batch.sequence)]
        id = self.next_id()
        header = _pack([_PUBLISH, id, lane.topic, first.durability, first.expected, source])
        size = len(header)
        self._answers[id] = lambda frame: self._published(lane, batch, frame[0])
        batch.sent += 1
        self.session.send(_PREFIX.pack(4 + size + batch.size, size), header, *(item.run for item in batch.items))

    def _published(self, lane: _Lane, batch: _Batch, header: _Header) -> None:
        if header[0] == _FAILED:
            error = _error(header)
            if error.code == "conflict" and batch.items[0].expected is None and batch.sequence > 0:
                # The server knows nothing of this publisher any more, as when the topic was deleted and made again.
                if batch.publisher == lane.publisher:
                    lane.renew()
                if batch.sent == 1:
                    lane.name(batch)
                    self._publish(lane, batch)
                    return
                error.hint = "they may be stored or not; messages that have an id are stored once"
            self._done(lane, batch)
            for item in batch.items:
                if item.future.set_running_or_notify_cancel():
                    item.future.set_exception(CrossdockError(error.code, error.message, error.hint, error.retry_after))
            return
        first, _, number, duplicates = header[2:6]
        durability = ("memory", "os", "fsync")[number] if number < 3 else f"quorum({number - 100})"
        earlier = dict(duplicates)
        place = 0
        self._done(lane, batch)
        for item in batch.items:
            receipts = []
            for place in range(place, place + item.count):
                duplicate = place in earlier
                receipts.append(Receipt(lane.topic, earlier[place] if duplicate else first, duplicate, durability))
                first += not duplicate
            place += 1
            if item.future.set_running_or_notify_cancel():
                item.future.set_result(receipts[0] if item.alone else receipts)

    def _done(self, lane: _Lane, batch: _Batch) -> None:
        lane.under_way.remove(batch)
        self._answered(batch.size)
        if lane.queue:
            self._pump(lane)
        elif not lane.under_way and len(self._lanes) > 1000:
            del self._lanes[lane.topic]  # whoever publishes to topics without end is a new publisher to each

    def _answered(self, size: int) -> None:
        with self._room:
            self._unanswered -= size
            self._room.notify_all()

    # Flows

    def add(self, flow: _Flow) -> None:
        self._flows.append(flow)
        self._open(flow)

    def remove(self, flow: _Flow) -> None:
        """It is to flow no more. What it holds is given back."""
        if flow in self._flows:
            self._flows.remove(flow)
        if flow.id and self.session is not None:
            self.session.send(_frame(_pack([_CANCEL, flow.id])))
            self._flowing.pop(flow.id, None)
            flow.id = 0

    def _open(self, flow: _Flow) -> None:
        if self.session is None or self.draining or self.leaving:
            return
        if not flow.id and flow in self._flows:
            flow.id = self.next_id()
            self._flowing[flow.id] = flow
            self.session.send(_frame(flow.open(flow.id)))

    def drain(self) -> None:
        """Nothing new is to come."""
        self.leaving = True
        if self.session is not None:
            self.session.send(_frame(_pack([_DRAIN, 0])))


def _closed() -> CrossdockError:
    return CrossdockError("unavailable", "the connection is closed")


def _failure(code: str, message: str, hint: str | None = None) -> _Frame:
    return [_FAILED, 0, [code, message, hint, None]], b""


def _error(header: _Header) -> CrossdockError:
    code, message, hint, after_ms = header[2][:4]
    return CrossdockError(code, message, hint, None if after_ms is None else after_ms / 1000)


# --- Consuming --------------------------------------------------------------------------------------------------


class Delivery(Message):
    """A message that was taken from a subscription, and has to be settled: by `ack`, `retry`, `reject` or `release`.

    Each of them gives a future (in async code, an awaitable) that resolves when it is durable; waiting for it is not
    needed. Where it fails (the lease had run out, or the connection was lost) the message comes again.
    """

    __slots__ = ("_consumer", "_log", "_token", "_stay", "_outputs", "_settled")

    def __init__(self, consumer: Consumer, log: int, token: int, *message: Any) -> None:
        super().__init__(*message)
        self._consumer = consumer
        self._log = log
        self._token = token
        self._stay = consumer.stay
        self._outputs: dict[str, bytearray] = {}
        self._settled = False

    def publish(self, topic: str, data: Any, **options: Unpack[MessageOptions]) -> None:
        """Publishes a message when this one is acknowledged, together with it or not at all; as `Context.publish`."""
        _add_output(self._outputs, topic, _record_of(topic, data, self, **options))

    def ack(self) -> Any:
        """It is done: never deliver it again. What was published with it becomes visible."""
        return self._settle(_ACK, outputs=self._outputs)

    def retry(self, reason: str = "the consumer asked for a retry", *, after: Seconds | None = None) -> Any:
        """It failed: deliver it again after the subscription's backoff, or after so many seconds."""
        return self._settle(_RETRY, None if after is None else int(_seconds("after", after) * 1000), reason)

    def reject(self, reason: str) -> Any:
        """Never deliver it again: put it to the dead letters."""
        return self._settle(_REJECT, None, reason)

    def release(self) -> Any:
        """Not done, and not the message's fault: deliver it again at once. Counts as nothing."""
        return self._settle(_RELEASE)

    def extend(self, lease: Seconds | None = None) -> Any:
        """It takes longer: keep it for the subscription's lease from now on, or for so many seconds."""
        seconds = self._consumer.lease if lease is None else _seconds("lease", lease)
        return self._consumer.tell(lambda future: self._consumer.extend([self], seconds, future))

    def _settle(
        self,
        verdict: int,
        after_ms: int | None = None,
        reason: str = "",
        outputs: dict[str, bytearray] | None = None,
    ) -> Any:
        if self._settled:
            raise ValueError(f"{self!r} has been settled already")
        self._settled = True
        runs, payload = _joined(outputs or {}, "a message")
        ended = _Ended(runs, payload, verdict)
        ended.after_ms, ended.reason = after_ms, reason[:_MAX_REASON]
        return self._consumer.tell(lambda future: self._consumer.settle(self, ended, future), settles=True)


_Future = Any  # of what a Delivery's methods give


class Consumer(_Flow):
    """Messages of a subscription, as they come: iterate over it, or `get` one. Made by `Client.consume`.

    Messages that wait here are kept from others for as long as this process lives; from when it is handed out a
    message has at least two thirds of its lease left.
    """

    _also_passes: tuple[str, ...] = ()
    """The codes of errors after which it tries again, beside those that pass by themselves."""
    stay = 0
    """Which connection it is: what came with an earlier one cannot be settled any more."""
    lease = 30.0

    def __init__(
        self, connection: _Connection, subscription: str, by: str, prefetch: int, lease: float | None, is_async: bool
    ) -> None:
        self.subscription = subscription
        self._connection = connection
        self._by = by
        self._depth = prefetch
        self._own_lease = lease
        self._is_async = is_async
        self._lock = threading.Lock()
        self._queue: collections.deque[Delivery] = collections.deque()
        self._takers: collections.deque[concurrent.futures.Future[Delivery]] = collections.deque()
        self._ended: CrossdockError | None = None
        # In the connection's thread alone:
        self._granted = self._granted_bytes = 0  # what the server may still send
        self._held: dict[int, Delivery] = {}
        self._renewed: dict[int, float] = {}
        self._verdicts: list[tuple[Delivery, _Ended, _Future]] = []
        self._settling = 0
        self._leaving = False

    # For whoever consumes

    def __iter__(self) -> Consumer:
        return self

    def __next__(self) -> Delivery:
        delivery = self.get()
        if delivery is None:
            raise StopIteration
        return delivery

    def get(self, timeout: Seconds | None = None) -> Delivery | None:
        """The next message; None when it has not come in time, or the consumer is closed. Raises CrossdockError when
        none can come any more, as when the subscription was deleted."""
        taker = self._taker()
        if taker is None:
            return None
        try:
            return taker.result(None if timeout is None else _seconds("timeout", timeout))
        except concurrent.futures.TimeoutError:
            return None if taker.cancel() else self._result(taker)
        except concurrent.futures.CancelledError:
            return None

    def __aiter__(self) -> Consumer:
        return self

    async def __anext__(self) -> Delivery:
        import asyncio

        taker = self._taker()
        if taker is None:
            raise StopAsyncIteration
        try:
            return await asyncio.wrap_future(taker)
        except asyncio.CancelledError:
            if taker.done() and not taker.cancelled() and taker.exception() is None:
                self._put_back(taker.result())
            if self._ended is not None and self._ended.code == "closed":
                raise StopAsyncIteration from None
            raise

    def close(self) -> None:
        """Takes no more. What has not been handed out or settled is given back, and no failure is counted."""
        self._finish(CrossdockError("closed", "the consumer is closed"))

        try:
            self._connection.soon(self._leave)
        except CrossdockError:
            pass

    def __enter__(self) -> Consumer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _taker(self) -> concurrent.futures.Future[Delivery] | None:
        taker: concurrent.futures.Future[Delivery] = concurrent.futures.Future()
        with self._lock:
            if self._queue:
                taker.set_result(self._queue.popleft())
            elif self._ended is None:
                self._takers.append(taker)
            elif self._ended.code == "closed":
                return None
            else:
                raise self._ended
        return taker

    @staticmethod
    def _result(taker: concurrent.futures.Future[Delivery]) -> Delivery | None:
        try:
            return taker.result()
        except concurrent.futures.CancelledError:
            return None

    def _put_back(self, delivery: Delivery) -> None:
        with self._lock:
            self._queue.appendleft(delivery)

    def _finish(self, why: CrossdockError) -> None:
        with self._lock:
            if self._ended is None:
                self._ended = why
            takers, self._takers = self._takers, collections.deque()
            if why.code == "closed":
                self._queue.clear()
        for taker in takers:
            if why.code == "closed":
                taker.cancel()
            elif taker.set_running_or_notify_cancel():
                taker.set_exception(why)

    def tell(self, what: Callable[[concurrent.futures.Future[None]], None], settles: bool = False) -> Any:
        """Has the connection's thread do this, and gives what resolves when it is done."""
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        if settles:
            self._connection.settling(1)
            future.add_done_callback(lambda _: self._connection.settling(-1))
        try:
            self._connection.soon(lambda: what(future))
        except CrossdockError as error:
            future.set_exception(error)
        if self._is_async:
            import asyncio

            return asyncio.wrap_future(future)
        return future

    # In the connection's thread

    def start(self, lease: float) -> None:
        self.lease = lease if self._own_lease is None else self._own_lease
        self._connection.add(self)
        self._look()

    def _leave(self) -> None:
        """Leaves as soon as what was settled is."""
        self._leaving = True
        if not self._verdicts and not self._settling:
            self._connection.remove(self)

    def open(self, id: int) -> bytes:
        self.stay += 1
        self._granted, self._granted_bytes = self._depth, _UNANSWERED_BYTES // 4
        lease = None if self._own_lease is None else int(self._own_lease * 1000)
        return _pack([_CONSUME, id, self.subscription, self._granted, self._granted_bytes, lease])

    def take(self, header: _Header, payload: bytes) -> None:
        if header[0] != _DELIVERIES:
            return
        now = time.monotonic()
        for delivery in _deliveries(header, payload, lambda *a: Delivery(self, *a)):
            self._held[delivery._token] = delivery
            self._renewed[delivery._token] = now
            self._granted -= 1
            self._granted_bytes -= len(delivery._record)
            self._arrive(delivery)

    def _arrive(self, delivery: Delivery) -> None:
        with self._lock:
            while self._takers:
                taker = self._takers.popleft()
                if taker.set_running_or_notify_cancel():
                    break
            else:
                self._queue.append(delivery)
                return
        taker.set_result(delivery)

    def hurry(self) -> None:
        with self._lock:
            unseen, self._queue = self._queue, collections.deque()
        self._give_back(unseen)

    def _give_back(self, deliveries: collections.deque[Delivery]) -> None:
        """Releases what nobody has looked at."""
        while deliveries:
            self.settle(deliveries.popleft(), _Ended([], b"", _RELEASE), self._confirmation())

    def _confirmation(self) -> concurrent.futures.Future[None]:
        """Where a settlement that nobody waits for is confirmed."""
        return concurrent.futures.Future()

    def lost(self) -> None:
        """What came with this connection is given back by the server."""
        self._held.clear()
        self._renewed.clear()
        with self._lock:
            self._queue.clear()
        verdicts, self._verdicts = self._verdicts, []
        for _, _, future in verdicts:
            future.set_exception(_gone())

    def failed(self, error: CrossdockError) -> bool:
        if self.passes(error, self._connection, f"consume from {self.subscription}", *self._also_passes):
            return True
        self._finish(error)
        return False

    def settle(self, delivery: Delivery, ended: _Ended, future: _Future) -> None:
        if delivery._stay != self.stay or self._held.pop(delivery._token, None) is None:
            future.set_exception(_gone())
            return
        self._renewed.pop(delivery._token, None)
        if not self._verdicts:
            self._connection.loop.call_soon(self._flush)
        self._verdicts.append((delivery, ended, future))

    def _flush(self) -> None:
        """Sends what was settled: all together, but each that publishes something by itself."""
        verdicts, self._verdicts = self._verdicts, []
        plain: list[tuple[Delivery, _Ended, _Future]] = []
        for verdict in verdicts:
            if verdict[1].runs:
                self._send([verdict])
            else:
                plain.append(verdict)
        for at in range(0, len(plain), _OUTCOMES):
            self._send(plain[at : at + _OUTCOMES])
        if verdicts:
            self._top_up()

    def _send(self, verdicts: list[tuple[Delivery, _Ended, _Future]]) -> None:
        said: list[list[Any]] = [
            [e.verdict, d._log, d.offset, d._token, 1, e.after_ms, e.reason]
            for d, e, _ in sorted(verdicts, key=lambda v: (v[0]._log, v[0]._token))
        ]
        ranges = said[:1]
        for outcome in said[1:]:
            last = ranges[-1]
            count = last[4]
            follows = [last[0], last[1], last[2] + count, last[3] + count, 1, last[5], last[6]]
            if outcome == follows:
                last[4] += 1
            else:
                ranges.append(outcome)
        ended = verdicts[0][1]
        header = [self.subscription, ranges, ended.runs, self._by]
        self._settling += 1
        try:
            asked = self._connection.ask(_Question(lambda id: _pack([_SETTLE, id, *header]), ended.payload, ends=True))
        except CrossdockError as error:
            self._was_settled(verdicts, _failure(error.code, error.message)[0])
        else:
            asked.add_done_callback(lambda asked: self._was_settled(verdicts, asked.result()[0]))

    def _was_settled(self, verdicts: list[tuple[Delivery, _Ended, _Future]], header: _Header) -> None:
        self._settling -= 1
        stale: set[tuple[int, int]] = set()
        error = _error(header) if header[0] == _FAILED else None
        if error is None:
            stale = {(log, token + i) for log, _, token, count in header[3] for i in range(count)}
        for delivery, ended, future in verdicts:
            if error is None and (delivery._log, delivery._token) not in stale:
                future.set_result(None)
                continue
            why = error or CrossdockError("conflict", "its lease had run out, or it was settled before")
            if ended.verdict != _RELEASE:
                _log.warning("%r could not be settled and may come again: %s", delivery, why)
            future.set_exception(why)
        if self._leaving:
            self._leave()

    def extend(self, deliveries: list[Delivery], lease: float, future: _Future | None = None) -> None:
        held = [d for d in deliveries if d._stay == self.stay and d._token in self._held]
        if not held:
            if future is not None:
                future.set_exception(_gone())
            return
        now = time.monotonic()
        for delivery in held:
            self._renewed[delivery._token] = now
        ranges = [[d._log, d.offset, d._token, 1] for d in held]
        asked = self._connection.ask(
            _Question(lambda id: _pack([_EXTEND, id, self.subscription, int(lease * 1000), ranges]), ends=True)
        )

        def answered(asked: concurrent.futures.Future[_Frame]) -> None:
            header = asked.result()[0]
            if future is None:
                return
            if header[0] == _FAILED:
                future.set_exception(_error(header))
            elif header[3]:
                future.set_exception(_gone())
            else:
                future.set_result(None)

        asked.add_done_callback(answered)

    def _top_up(self) -> None:
        """Lets more come, when that is worth a frame."""
        more = self._depth - self._granted - len(self._held)
        if not self.id or self._leaving or more * 4 < self._depth or self._connection.session is None:
            return
        held = sum(len(delivery._record) for delivery in self._held.values())
        bytes_more = max(0, _UNANSWERED_BYTES // 4 - max(0, self._granted_bytes) - held)
        self._granted += more
        self._granted_bytes = max(0, self._granted_bytes) + bytes_more
        self._connection.session.send(_frame(_pack([_CREDIT, self.id, more, bytes_more])))

    def _waiting(self) -> list[Delivery]:
        """What is to be kept from others."""
        with self._lock:
            return list(self._queue)

    def _look(self) -> None:
        """Renews leases, now and then."""
        if self._ended is not None:
            return
        self._connection.loop.call_later(self.lease / 6, self._look)
        old = time.monotonic() - self.lease / 4
        if self.id or self._connection.draining:
            due = [d for d in self._waiting() if self._renewed.get(d._token, old) < old]
            if due:
                self.extend(due, self.lease)


def _gone() -> CrossdockError:
    return CrossdockError(
        "conflict",
        "the message is not held any more: its lease has run out, or the connection was lost",
        "it is delivered again",
    )


_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")


def _read_duration(text: str) -> float:
    """The seconds of a duration as the server writes it, such as `1m 30s`."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "day": 86400, "days": 86400}
    return sum(float(number) * units.get(unit, 0) for number, unit in _DURATION.findall(text)) or 30.0


# --- The client -------------------------------------------------------------------------------------------------


class Outgoing:
    """A message for `publish_many`: its data, and the keywords of `publish` that are about the message itself."""

    __slots__ = ("data", "options")

    def __init__(self, data: Any, **options: Unpack[MessageOptions]) -> None:
        self.data = data
        self.options = options


_DURABILITIES = {"memory": 0, "os": 1, "fsync": 2}


def _item(
    topic: str,
    messages: Sequence[Any],
    durability: str | None = None,
    expected_last: int | None = None,
    expected_last_of_key: int | None = None,
    alone: bool = False,
) -> _Item:
    parts: list[bytes] = []
    key = None
    for message in messages:
        outgoing = message if isinstance(message, Outgoing) else Outgoing(message)
        key = outgoing.options.get("key")
        record = _record_of(topic, outgoing.data, **outgoing.options)
        parts += (_U32LE.pack(len(record)), record)
    run = b"".join(parts)
    if not messages or len(messages) > 65_536 or len(run) > _MAX_OUTPUT:
        raise ValueError(f"one piece has 1 to 65536 messages and up to {_MAX_OUTPUT} bytes, this has {len(messages)}")
    number = None
    if durability is not None:
        quorum = re.fullmatch(r"quorum\((\d{1,2})\)", durability)
        if durability not in _DURABILITIES and not quorum:
            raise ValueError(f'{durability!r} is no durability; it can be "memory", "os", "fsync" or "quorum(n)"')
        number = 100 + int(quorum.group(1)) if quorum else _DURABILITIES[durability]
    expected: list[Any] | None = None
    if expected_last is not None:
        expected = [None if expected_last < 0 else expected_last, None]
    if expected_last_of_key is not None:
        if expected is not None or key is None:
            raise ValueError("expected_last_of_key needs a key, and goes without expected_last")
        expected = [None if expected_last_of_key < 0 else expected_last_of_key, key]
    return _Item(topic, run, len(messages), number, expected, alone)


class Client:
    """A connection to a server, as `connect` makes it. All of it can be used from several threads.

    A connection that is lost is made again. Until then what is published waits, and what was published without an
    answer is sent again and stored once; a consumer's messages come again; a request fails with `unavailable`.
    """

    def __init__(self, address: _Address, timeout: float) -> None:
        self._timeout = timeout
        self._name = address.name
        self._connection = _Connection(address)
        self._consumers: list[Consumer] = []

    def __enter__(self) -> Client:
        self._opened(self._timeout)
        return self

    def _opened(self, timeout: float) -> None:
        try:
            self._connection.ready.result(timeout)
        except concurrent.futures.TimeoutError:
            why = f"{self._connection.address.url} cannot be reached: {self._connection.trouble}"
            self.close(0)
            raise CrossdockError("unavailable", why, "is the server running, and is this its address?") from None
        except CrossdockError as error:
            raise CrossdockError(error.code, error.message, error.hint) from None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self.close()
        except CrossdockError:
            if kind is None:
                raise

    def close(self, timeout: Seconds = _PATIENCE) -> None:
        """Waits until all that was sent is stored and all that was settled is durable, for up to `timeout`, and
        closes. Raises CrossdockError when that was not so in time."""
        for consumer in self._consumers:
            consumer.close()
        self._connection.close(_seconds("timeout", timeout))

    async def __aenter__(self) -> AsyncClient:
        import asyncio

        await asyncio.get_running_loop().run_in_executor(None, self._opened, self._timeout)
        self._async = AsyncClient(self)
        return self._async

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> None:
        import asyncio

        await asyncio.get_running_loop().run_in_executor(None, self.__exit__, kind, error, trace)

    def publish(self, topic: str, data: Any, **options: Unpack[PublishOptions]) -> Receipt:
        """Publishes a message and waits until it is stored as safely as its topic asks. The keywords are those of
        `MessageOptions` (key, id, headers, content_type, priority, deliver_in, ...) and `PublishOptions` (durability,
        expected_last, expected_last_of_key, timeout).

        Bytes are sent as they are, str as text, a Message as it came, and anything else as JSON. Raises
        CrossdockError; with `timeout` it may be stored or not, and is still sent until the client is closed.
        """
        timeout = options.get("timeout", _PATIENCE)
        return typing.cast(Receipt, self._stored(self.send(topic, data, **options), timeout))

    def publish_many(
        self,
        topic: str,
        messages: Sequence[Any],
        *,
        durability: str | None = None,
        expected_last: int | None = None,
        timeout: Seconds = _PATIENCE,
    ) -> list[Receipt]:
        """Publishes messages in one piece: all of them are stored, one after another, or none. Each is data as with
        `publish`, or an Outgoing. At most 65,536 and 64 MiB."""
        item = _item(topic, list(messages), durability, expected_last)
        return typing.cast("list[Receipt]", self._stored(self._send(item, timeout), timeout))

    def send(self, topic: str, data: Any, **options: Unpack[PublishOptions]) -> concurrent.futures.Future[Receipt]:
        """Publishes without waiting: the future resolves with the receipt. Messages to one topic are stored in the
        order in which they were sent. When 64 MiB are under way it waits for room. The keywords are those of `publish`."""
        timeout = options.pop("timeout", _PATIENCE)
        message: Any = options
        piece = {n: message.pop(n) for n in ("durability", "expected_last", "expected_last_of_key") if n in message}
        return self._send(_item(topic, [Outgoing(data, **message)], alone=True, **piece), timeout)

    def _send(self, item: _Item, timeout: Seconds) -> concurrent.futures.Future[Any]:
        self._connection.send(item, _seconds("timeout", timeout))
        return item.future

    def _stored(self, future: concurrent.futures.Future[Any], timeout: Seconds) -> Any:
        try:
            return future.result(_seconds("timeout", timeout))
        except concurrent.futures.TimeoutError:
            raise self._late() from None

    def _late(self) -> CrossdockError:
        state = "no answer" if self._connection.session is not None else self._connection.trouble
        return CrossdockError(
            "timeout",
            f"the server has not said that it is stored ({state})",
            "it may be stored or not; a message that is published again with the same id is stored once",
        )

    def consume(
        self, subscription: str, *, prefetch: int = 256, lease: Seconds | None = None, by: str | None = None
    ) -> Consumer:
        """Takes messages of a subscription; iterate over what this gives, and settle each.

        prefetch   how many may be here without being settled
        lease      how long each may be held, in seconds; unless said, as the subscription says
        by         who settles, as dead letters show it; the client's name unless said
        """
        return self._consume(subscription, prefetch, lease, by)

    def _consume(
        self,
        subscription: str,
        prefetch: int = 256,
        lease: Seconds | None = None,
        by: str | None = None,
        is_async: bool = False,
    ) -> Consumer:
        if not isinstance(prefetch, int) or not 1 <= prefetch <= 65_536:
            raise ValueError("prefetch can be 1 to 65536")
        own = None if lease is None else _seconds("lease", lease)
        consumer = Consumer(self._connection, subscription, by or self._name, prefetch, own, is_async)
        self._consumers = [c for c in self._consumers if c._ended is None] + [consumer]
        _begin_consuming(self._connection, consumer)
        return consumer

    def invoke(
        self,
        service: str,
        data: Any = None,
        *,
        timeout: Seconds = _PATIENCE,
        returns: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Asks a service and gives its reply: JSON as data (or as the type `returns`), text as str, anything else as
        bytes. Raises InvokeError when nobody answers, in time or at all, or the service fails."""
        return self._connection.get(_invoking(service, data, timeout, returns, headers))

    def read(self, topic: str, start: int | str | dt.datetime = "start", *, max: int = 1000, wait: Seconds = 0) -> Page:
        """Messages of a topic, without a subscription: a Page of up to `max` from `start` on (an offset, "start", "end"
        or a datetime), waiting up to `wait` for the first one. Raises CrossdockError."""
        return typing.cast(Page, self._connection.get(_reading(topic, start, max, wait)))


def _begin_consuming(connection: _Connection, consumer: Consumer) -> None:
    """Starts a consumer as soon as its lease is known."""

    question = _calling("subscription", name=consumer.subscription)

    def known(asked: concurrent.futures.Future[_Frame]) -> None:
        lease = 30.0
        try:
            lease = _read_duration(question.finish(asked.result())["subscription"]["lease"])
        except CrossdockError as error:
            if error.code not in ("permission_denied", "timeout"):
                consumer._finish(error)
                return
        consumer.start(lease)

    connection.ask(question).add_done_callback(known)


class AsyncClient:
    """A Client for async code: what waits there is awaited here."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def publish(self, topic: str, data: Any, **options: Unpack[PublishOptions]) -> Receipt:
        """As `Client.publish`. To have several under way, gather them; they are stored in the order in which they were
        begun."""
        timeout = options.get("timeout", _PATIENCE)
        connection = self._client._connection
        if connection._unanswered > _UNANSWERED_BYTES // 2:
            import asyncio

            sent = await asyncio.get_running_loop().run_in_executor(
                None, lambda: self._client.send(topic, data, **options)
            )
        else:
            sent = self._client.send(topic, data, **options)
        return typing.cast(Receipt, await self._wait(sent, timeout))

    async def publish_many(self, topic: str, messages: Sequence[Any], **options: Any) -> list[Receipt]:
        """As `Client.publish_many`."""
        timeout = options.pop("timeout", _PATIENCE)
        item = _item(topic, list(messages), **options)
        return typing.cast("list[Receipt]", await self._wait(self._client._send(item, timeout), timeout))

    async def _wait(self, future: concurrent.futures.Future[Any], timeout: Seconds) -> Any:
        import asyncio

        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), _seconds("timeout", timeout))
        except asyncio.TimeoutError:
            raise self._client._late() from None

    def consume(self, subscription: str, **options: Any) -> Consumer:
        """As `Client.consume`; iterate with `async for`."""
        return self._client._consume(subscription, is_async=True, **options)

    async def invoke(self, service: str, data: Any = None, **options: Any) -> Any:
        """As `Client.invoke`."""
        return await self._client._connection.get_async(_invoking(service, data, **options))

    async def read(
        self, topic: str, start: int | str | dt.datetime = "start", *, max: int = 1000, wait: Seconds = 0
    ) -> Page:
        """As `Client.read`."""
        return typing.cast(Page, await self._client._connection.get_async(_reading(topic, start, max, wait)))


def connect(
    url: str | None = None,
    *,
    user: str | None = None,
    password: str | None = None,
    api_key: str | None = None,
    ca_file: str | None = None,
    plain_credentials: bool = False,
    name: str | None = None,
    timeout: Seconds = 10,
) -> Client:
    """Connects to a server: `with crossdock.connect("crossdock://127.0.0.1:7402") as cd: ...`, or `async with`.

    What is not given is taken from the environment: CROSSDOCK_BROKER_URL, CROSSDOCK_USER and CROSSDOCK_PASSWORD or
    CROSSDOCK_API_KEY, CROSSDOCK_CA_FILE.

    url                 crossdock://HOST:PORT, or crossdocks://HOST:PORT for TLS
    ca_file             whom to trust with TLS (PEM), instead of those whom this machine trusts
    plain_credentials   a password may be sent unencrypted to another machine
    name                what this client calls itself, in the server's log and with dead letters
    timeout             how long `with` waits for the first connection, in seconds
    """
    program = os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "python"
    name = name or f"{program}@{socket.gethostname()}"
    address = _Address(url, user, password, api_key, ca_file, plain_credentials, name)
    return Client(address, _seconds("timeout", timeout))


# --- Hosting a service from outside -----------------------------------------------------------------------------

_AHEAD = 0.05  # seconds of work that lie here beyond what is being worked on, where calls are short
_CAPACITY = 1024  # requests that wait here; more are refused as overloaded


class _Host(_Runner):
    """Runs the handlers of this program for messages and requests that come over a connection. Plain ones run in
    threads, async ones in the loop of whoever called `run`."""

    def __init__(self, connection: _Connection, service: str, handlers: Sequence[_Handler]) -> None:
        import asyncio
        import concurrent.futures.thread

        self.service = service
        self.connection = connection
        self._asyncio: Any = asyncio
        self._handlers = handlers
        plain = sum(handler.concurrency for handler in handlers if not handler.is_async)
        self._threads = concurrent.futures.thread.ThreadPoolExecutor(max(1, plain), "crossdock-call")
        self._loop: Any = None
        self._parts: list[_Hosted] = []
        self._drained: Any = None

    async def run(self, stop: Any) -> None:
        """Serves until `stop` (an asyncio.Event) is set, and then ends what is under way."""
        loop = self._loop = self._asyncio.get_running_loop()
        by = f"{self.service}@{self.connection.address.name}"
        for handler in self._handlers:
            handler.settle_in(self.service, _PATIENCE)
            if handler.kind == "consume":
                lease = await loop.run_in_executor(None, self._subscribe, handler)
                consumer = _HostedConsumer(self, handler, by)
                self._parts.append(consumer)
                self.connection.soon(lambda c=consumer, s=lease: c.start(s))  # type: ignore[misc]
            else:
                serving = _HostedServing(self, handler)
                self._parts.append(serving)
                self.connection.soon(lambda s=serving: self.connection.add(s))  # type: ignore[misc]
        places = [part.place for part in self._parts]
        _log.info("%s serves %s at %s", self.service, ", ".join(places), self.connection.address.url)
        ended = loop.create_task(stop.wait())
        while not ended.done():
            await self._asyncio.wait({ended}, timeout=0.2)
            if self.connection._ended is not None:
                raise self.connection._ended
            for part in self._parts:
                if part.fault is not None:
                    raise part.fault
        _log.info("%s drains", self.service)
        self.connection.soon(self._drain)
        until = time.monotonic() + _PATIENCE
        while any(part.busy() for part in self._parts) and time.monotonic() < until:
            await self._asyncio.sleep(0.02)
        self._threads.shutdown(wait=False)

    def _drain(self) -> None:
        for part in self._parts:
            part.drain()
        self.connection.drain()

    def _subscribe(self, handler: _Handler) -> float:
        """Makes the handler's subscription as it says, or uses the one that is there. Gives its lease."""
        entry = handler.manifest(self.service)
        name = handler.subscription
        wanted = {n: entry[n] for n in ("topics", "start", "max_failures", "order", "priorities", "sharing", "filter")
                  if n in entry}  # fmt: skip
        there: dict[str, Any] = {"name": name}
        found = False
        try:
            there = self.connection.call("subscription", name=name)["subscription"]
            found = True
        except CrossdockError as error:
            if error.code != "not_found":
                raise
        lease = _read_duration(there.get("lease", "30s"))
        if found and all(there.get(n, _USUAL.get(n)) == value for n, value in wanted.items() if n != "start"):
            return lease
        try:
            self.connection.call("put_subscription", subscription={**there, **wanted}, expect="any")
        except CrossdockError as error:
            if found and error.code == "permission_denied":
                _log.warning("%s is used as it is, not as %s says: %s", name, handler.name, error.message)
                return lease
            if error.code == "not_found":
                hint = f"make it first: crossdock topic create {wanted['topics'][0]}"
                raise CrossdockError(error.code, f"{handler.name} cannot consume: {error.message}", hint) from None
            if error.code == "permission_denied":
                text = f"{handler.name} consumes from {name}, which does not exist, and this user may not make it"
                topics = " ".join(f"--topic '{topic}'" for topic in wanted["topics"])
                raise CrossdockError(error.code, text, f"have it made: crossdock sub create {name} {topics}") from None
            raise
        return lease

    def start(self, call: _Call) -> concurrent.futures.Future[_Ended]:
        """Begins a call; its future resolves in any thread."""
        if call.handler.is_async:
            work: Any = self._asyncio.run_coroutine_threadsafe(_call_async(self, call), self._loop)
        else:
            work = self._threads.submit(_call, self, call)
        return typing.cast("concurrent.futures.Future[_Ended]", work)

    def ask(self, question: _Question, is_async: bool) -> Any:
        return self.connection.get_async(question) if is_async else self.connection.get(question)


_USUAL = {"order": "none", "priorities": False, "sharing": "shared"}


class _Hosted:
    """One handler and what it is to do. All but `busy` runs in the connection's thread."""

    def __init__(self, host: _Host, handler: _Handler) -> None:
        self.host = host
        self.handler = handler
        self.fault: CrossdockError | None = None
        self.draining = False
        self.place = handler.subscription or handler.spec.get("name") or host.service
        self.todo: collections.deque[Any] = collections.deque()
        self.running: dict[Any, float] = {}
        self.average = _AHEAD

    def busy(self) -> bool:
        """Whether something has no end yet."""
        return bool(self.running)

    def drain(self) -> None:
        """Begins nothing more."""
        self.draining = True

    def call(self, work: Any) -> _Call:
        raise NotImplementedError

    def finish(self, work: Any, call: _Call, ended: _Ended) -> None:
        raise NotImplementedError

    def go_on(self) -> None:
        """Begins as many calls as there is room for."""
        while self.todo and len(self.running) < self.handler.concurrency and not self.draining:
            work = self.todo.popleft()
            call = self.call(work)
            self.running[work] = time.monotonic()
            self.host.start(call).add_done_callback(lambda done, w=work, c=call: self._done(w, c, done))  # type: ignore[misc]

    def _done(self, work: Any, call: _Call, done: concurrent.futures.Future[_Ended]) -> None:
        # Only what is meant to end the program gets here as an error, such as SystemExit.
        error = None if done.cancelled() else done.exception()
        ended = _Ended([], b"", _RETRY) if done.cancelled() or error is not None else done.result()
        if error is not None:
            ended.reason = f"{self.handler.name} raised {error!r}"
            ended.error = ["service_failed", ended.reason, None, None]

        def go_on() -> None:
            took = time.monotonic() - self.running.pop(work)
            self.average = (7 * self.average + took) / 8
            self.finish(work, call, ended)
            self.go_on()

        try:
            self.host.connection.soon(go_on)
        except CrossdockError:
            self.running.pop(work, None)


class _HostedConsumer(_Hosted, Consumer):
    """A handler of messages."""

    _also_passes = ("not_found",)  # the subscription may be on its way

    def __init__(self, host: _Host, handler: _Handler, by: str) -> None:
        _Hosted.__init__(self, host, handler)
        Consumer.__init__(self, host.connection, handler.subscription, by, 2 * handler.concurrency, None, False)
        self._unconfirmed = 0

    def busy(self) -> bool:
        return bool(self.running) or self._unconfirmed > 0

    def call(self, work: Delivery) -> _Call:
        return _Call(self.handler, work._token, self.handler.budget, work, work._log)

    def _arrive(self, delivery: Delivery) -> None:
        if self.draining:
            self.settle(delivery, _Ended([], b"", _RELEASE), self._confirmation())
            return
        self.todo.append(delivery)
        self.go_on()

    def finish(self, work: Delivery, call: _Call, ended: _Ended) -> None:
        # More is taken ahead where calls are short, so that none waits for the next message.
        concurrency = self.handler.concurrency
        self._depth = concurrency + min(1024, max(1, int(concurrency * _AHEAD / max(self.average, 1e-6))))
        self.settle(work, ended, self._confirmation())

    def _confirmation(self) -> concurrent.futures.Future[None]:
        self._unconfirmed += 1
        future: concurrent.futures.Future[None] = concurrent.futures.Future()

        def confirmed(future: concurrent.futures.Future[None]) -> None:
            self._unconfirmed -= 1
            error = future.exception()
            if error is not None and getattr(error, "code", "") == "conflict":
                _log.warning("%s: a message could not be settled: %s", self.place, error)

        future.add_done_callback(confirmed)
        return future

    def drain(self) -> None:
        self.draining = True
        self.hurry()

    def hurry(self) -> None:
        self._give_back(self.todo)

    def lost(self) -> None:
        self.todo.clear()
        super().lost()

    def failed(self, error: CrossdockError) -> bool:
        if not super().failed(error) and not self.draining:
            self.fault = error
            return False
        return True

    def _waiting(self) -> list[Delivery]:
        # A call that takes longer than it may is not helped to: its message goes to somebody else.
        late = time.monotonic() - self.handler.budget
        return [*self.todo, *(work for work, since in self.running.items() if since > late)]


class _HostedServing(_Hosted, _Flow):
    """A handler of requests."""

    def __init__(self, host: _Host, handler: _Handler) -> None:
        super().__init__(host, handler)
        self._answered = 0

    def open(self, id: int) -> bytes:
        self._answered = 0
        return _pack([_SERVE, id, self.place, _CAPACITY])

    def take(self, header: _Header, payload: bytes) -> None:
        if header[0] == _REQUEST:
            call = _request(self.handler, header, payload)
            call.budget = min(call.budget, self.handler.budget)
            self.todo.append(call)
            self.go_on()
        elif header[0] == _ABANDONED:
            for call in self.todo:
                if call.id == header[1]:
                    self.todo.remove(call)
                    self._gave_back()
                    break

    def call(self, work: _Call) -> _Call:
        return work

    def finish(self, work: _Call, call: _Call, ended: _Ended) -> None:
        session = self.host.connection.session
        if session is not None and work.log == 0:
            session.send(_frame(_pack([_REPLY, call.id, ended.error, ended.runs]), ended.payload))
            self._gave_back()

    def _gave_back(self) -> None:
        self._answered += 1
        session = self.host.connection.session
        if self._answered >= _CAPACITY // 8 and session is not None and self.id:
            session.send(_frame(_pack([_CREDIT, self.id, self._answered, 0])))
            self._answered = 0

    def drain(self) -> None:
        self.draining = True
        while self.todo:
            session = self.host.connection.session
            error = ["unavailable", "the service is being stopped or replaced", "ask again", 100]
            if session is not None:
                session.send(_frame(_pack([_REPLY, self.todo.popleft().id, error, []])))

    def lost(self) -> None:
        """The callers have been told that this side is gone: what is still worked on has nobody who waits for it."""
        self.todo.clear()
        for call in self.running:
            call.log = -1

    def failed(self, error: CrossdockError) -> bool:
        if self.passes(error, self.host.connection, f"serve {self.place}"):
            return True
        if not self.draining:
            self.fault = error
        return False


def host(
    url: str | None = None,
    *,
    service: str | None = None,
    user: str | None = None,
    password: str | None = None,
    api_key: str | None = None,
    ca_file: str | None = None,
    plain_credentials: bool = False,
    timeout: Seconds = 10,
) -> None:
    """Hosts the service that this program holds, at a server it connects to: its marked functions get messages and
    requests as they would inside. Returns after SIGTERM or SIGINT, when what was under way has ended.

    `service` is its name; the program's file name unless said. The others are those of `connect`. It makes the
    subscriptions that its functions ask for; a user who may not do so needs them to be there. Answering requests takes
    an administrator. Raises CrossdockError when it cannot go on.
    """
    if service is None:
        service = os.path.splitext(os.path.basename(getattr(sys.modules["__main__"], "__file__", "") or ""))[0]
    if not _NAME.match(service):
        raise ValueError(f"{service!r} cannot name a service: give another one as service=...")
    _check_handlers(service)
    client = connect(
        url, user=user, password=password, api_key=api_key, ca_file=ca_file, plain_credentials=plain_credentials,
        name=f"{service}@{socket.gethostname()}", timeout=timeout,
    )  # fmt: skip
    import asyncio

    async def serve_all() -> None:
        stop = asyncio.Event()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await _Host(client._connection, str(service), list(_handlers)).run(stop)

    with client:
        asyncio.run(serve_all())


def _command(arguments: Sequence[str]) -> int:
    """`python -m crossdock run FILE`."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m crossdock",
        description="Hosts a service from outside of a server.",
        epilog="Who is asking comes from CROSSDOCK_USER and CROSSDOCK_PASSWORD, or CROSSDOCK_API_KEY.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("run", help="host the service that a file holds")
    command.add_argument("file", help="the service's code")
    command.add_argument("--broker", metavar="URL", help="crossdock://HOST:PORT, or crossdocks:// for TLS")
    command.add_argument("--service", metavar="NAME", help="its name, if not the file's")
    command.add_argument("--ca-file", metavar="PEM", help="whom to trust with TLS")
    command.add_argument("--plain-credentials", action="store_true", help="a password may be sent unencrypted")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    service = given.service or os.path.splitext(os.path.basename(given.file))[0]
    sys.path.insert(0, os.path.dirname(os.path.abspath(given.file)))
    try:
        _load(service, given.file)
        host(given.broker, service=service, ca_file=given.ca_file, plain_credentials=given.plain_credentials)
    except (CrossdockError, ValueError, OSError, _Unloadable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


# --- Testing without a server -----------------------------------------------------------------------------------


@dataclasses.dataclass
class Result:
    """What came of calling a handler in a test."""

    outcome: str
    """"ack", "retry" or "reject" of a consume handler; "reply" or "error" of a serve handler."""
    outputs: list[Message]
    """What it published, in order; nothing unless it succeeded."""
    reply: Any = None
    """The reply of a serve handler: JSON as data, text as str, else bytes."""
    status: int | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    content_type: str | None = None
    reason: str | None = None
    """Why it was retried, rejected, or an error."""
    after: float | None = None
    """When it asked to be retried, in seconds."""
    code: str | None = None
    """The code of an error, such as "invalid_argument"."""


class Sandbox(_Runner):
    """Calls handlers in tests, without a server. What one call publishes, a later one can `ctx.read`.

    services: what `ctx.invoke` finds, by name: a reply, a function from data to a reply, or another handler.
    """

    def __init__(self, services: Mapping[str, Any] | None = None) -> None:
        self._services = dict(services or {})
        self._topics: dict[str, list[Message]] = {}

    def run(
        self,
        handler: Callable[..., Any],
        data: Any = None,
        *,
        key: str | None = None,
        id: str | None = None,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = None,
        topic: str | None = None,
        offset: int = 0,
        attempt: int = 1,
        method: str = "POST",
        path: str = "/",
        params: Mapping[str, str] | None = None,
        query: str = "",
        user: str | None = None,
        timeout: Seconds = 30,
    ) -> Result:
        """Calls a marked function as the server would: with this data as a message, or as a request."""
        marked = [h for h in _handlers if h.function is handler]
        if not marked:
            raise ValueError(f"{handler!r} is not marked with @consume or @serve")
        target = marked[0]
        payload, kind = _encode(data)
        pairs = list((headers or {}).items())
        if target.kind == "serve":
            pairs += [(":method", method), (":path", path), (":query", query)]
            pairs += [(f":param.{name}", value) for name, value in (params or {}).items()]
            pairs += [(":user", user)] if user is not None else []
        record = _pack_record(payload, key=key, id=id, content_type=content_type or kind, headers=pairs)
        message = Message(record, len(payload))
        if target.kind == "consume":
            source = topic or target.spec["topics"][0]
            message = Message(record, len(payload), source, offset, int(time.time() * 1000), attempt, attempt)
        call = _Call(target, 1, _seconds("timeout", timeout), message)
        if target.is_async:
            import asyncio

            return self._result(target, asyncio.run(_call_async(self, call)))
        return self._result(target, _call(self, call))

    def publish(self, topic: str, data: Any, *, key: str | None = None, id: str | None = None) -> None:
        """Puts a message into a topic, for handlers to read."""
        payload, kind = _encode(data)
        self._store(topic, _pack_record(payload, key=key, id=id, content_type=kind))

    def messages(self, topic: str) -> list[Message]:
        """What has been published to a topic."""
        return list(self._topics.get(topic, []))

    def _store(self, topic: str, record: bytes) -> Message:
        log = self._topics.setdefault(topic, [])
        log.append(Message(record, _payload_bytes(record), topic, len(log), int(time.time() * 1000)))
        return log[-1]

    def _result(self, target: _Handler, ended: _Ended) -> Result:
        outputs, at = [], 0
        for topic, size in ended.runs:
            end = at + size
            while at < end:
                length = _U32LE.unpack_from(ended.payload, at)[0]
                outputs.append(self._store(topic, ended.payload[at + 4 : at + 4 + length]))
                at += 4 + length
        if target.kind == "consume":
            after = None if ended.after_ms is None else ended.after_ms / 1000
            outcome = {_ACK: "ack", _RETRY: "retry", _REJECT: "reject"}[ended.verdict]
            return Result(outcome, outputs, reason=ended.reason or None, after=after)
        if ended.error is not None:
            code, reason, _, after_ms = ended.error
            after = None if after_ms is None else after_ms / 1000
            return Result("error", outputs, reason=reason, code=code, after=after)
        record = ended.payload[at:]
        reply = Message(record, _payload_bytes(record))
        status, body = _reply(reply)
        return Result("reply", outputs, body(), status, reply.headers, reply.content_type)

    def ask(self, question: _Question, is_async: bool) -> Any:
        header = _unpack(question.header(1), 0)[0]
        if is_async:

            async def answer() -> Any:
                return question.finish(self._answer(header, question.payload))

            return answer()
        return question.finish(self._answer(header, question.payload))

    def _answer(self, question: _Header, payload: bytes) -> _Frame:
        if question[0] == _READ_TOPIC:
            return self._page(question)
        name = question[2]
        if name not in self._services:
            return [_FAILED, 1, ["unavailable", f"nobody serves {name}", "give it to the Sandbox", None]], b""
        reply = self._services[name]
        if callable(reply):
            request = Message(payload, _payload_bytes(payload))
            if any(h.function is reply for h in _handlers):
                result = self.run(reply, request)
                if result.outcome == "error":
                    return [_FAILED, 1, [result.code, result.reason, None, None]], b""
                reply = Response(result.reply, result.status or 200, result.headers, result.content_type)
            else:
                reply = reply(request.data)
        response = reply if isinstance(reply, Response) else Response(reply)
        body, kind = _encode(response.body)
        headers = [*response.headers.items(), (":status", str(response.status))]
        record = _pack_record(body, content_type=response.content_type or kind, headers=headers)
        return [_ANSWER, 1, len(body)], record

    def _page(self, question: _Header) -> _Frame:
        topic, place, value, limit = question[2:6]
        log = self._topics.get(topic)
        if log is None:
            return [_FAILED, 1, ["not_found", f"there is no topic {topic}", None, None]], b""
        first = 0 if place == 0 else len(log) if place == 1 else int(value)
        if place == 3:
            first = sum(1 for message in log if (message._time or 0) < value)
        found = log[first : first + limit]
        run = b"".join(_U32LE.pack(len(m._record)) + m._record for m in found)
        return [_PAGE, 1, first + len(found), [[m.offset, m._time, 1] for m in found]], run


def run(
    handler: Callable[..., Any], data: Any = None, *, services: Mapping[str, Any] | None = None, **message: Any
) -> Result:
    """Calls a marked function once, in a Sandbox of its own; the keywords are those of `Sandbox.run`."""
    return Sandbox(services).run(handler, data, **message)


if __name__ == "__main__":
    # As `python -m crossdock` this file is the program, and the services import it once more, by its name.
    import crossdock

    sys.exit(crossdock._command(sys.argv[1:]))
