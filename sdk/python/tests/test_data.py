"""Types in and out."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import random
import uuid
from dataclasses import dataclass, field
from typing import Any, List, Literal, Optional, Union

import pytest

import crossdock


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Tree:
    name: str
    children: list[Tree] = field(default_factory=list)


@dataclass
class Everything:
    text: str
    number: float
    when: dt.datetime
    day: dt.date
    colour: Colour
    ident: uuid.UUID
    price: decimal.Decimal
    pair: tuple[int, str]
    by_id: dict[int, Tree]
    either: Union[int, List[str]]  # noqa: UP007 - looked at when it runs, by Python 3.9 too
    mode: Literal["fast", "slow"]
    note: Optional[str] = None  # noqa: UP045
    tags: list[str] = field(default_factory=list)


GOOD: dict[str, Any] = {
    "text": "x", "number": 1, "when": "2026-11-22T17:00:00.5Z", "day": "2026-11-22", "colour": "blue",
    "ident": "12345678-1234-5678-1234-567812345678", "price": "1.10", "pair": [1, "a"],
    "by_id": {"7": {"name": "root", "children": [{"name": "leaf"}]}}, "either": ["a"], "mode": "fast", "unknown": 1,
}  # fmt: skip


def read(hint: Any, value: Any) -> Any:
    return crossdock._reader(hint)(value)


def test_everything_is_read_as_annotated_and_written_back() -> None:
    value = read(Everything, GOOD)
    assert value.when == dt.datetime(2026, 11, 22, 17, 0, 0, 500_000, dt.timezone.utc)
    assert value.colour is Colour.BLUE and value.price == decimal.Decimal("1.10") and value.pair == (1, "a")
    assert value.by_id[7].children[0].name == "leaf" and value.note is None and value.tags == []
    payload, kind = crossdock._encode(value)
    assert kind == "application/json"
    assert read(Everything, crossdock._read_json(payload)) == value


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"text": 1}, "text: expected a text, got 1"),
        ({"number": True}, "number: expected a number, got true"),
        ({"when": "yesterday"}, "when: expected a moment like"),
        ({"colour": "green"}, 'colour: expected one of "red", "blue", got "green"'),
        ({"colour": []}, "colour: expected one of"),
        ({"pair": [1]}, "pair: expected a list of 2"),
        ({"pair": [1, 2]}, "pair[1]: expected a text, got 2"),
        ({"by_id": {"x": {}}}, "by_id.x: expected an integer as the key"),
        ({"by_id": {"1": {"name": "a", "children": [{}]}}}, "by_id.1.children[0].name: is missing"),
        ({"either": ["a", 1]}, "either: expected an integer, got a list or [1]: expected a text, got 1"),
        ({"mode": "medium"}, 'mode: expected one of "fast", "slow"'),
        ({"note": 1}, "note: expected a text, got 1"),
        ({"price": "x"}, "price: expected a decimal number"),
    ],
)
def test_the_place_of_what_does_not_fit_is_named(change: dict[str, Any], why: str) -> None:
    with pytest.raises(crossdock._Misfit) as caught:
        read(Everything, {**GOOD, **change})
    assert why in str(caught.value)


def test_an_integer_is_no_bool_and_no_float() -> None:
    for wrong in [True, 1.0, "1", None]:
        with pytest.raises(crossdock._Misfit):
            read(int, wrong)


def test_what_a_post_init_refuses_does_not_fit() -> None:
    @dataclass
    class Positive:
        n: int

        def __post_init__(self) -> None:
            if self.n < 0:
                raise ValueError("n must not be negative")

    with pytest.raises(crossdock._Misfit, match="n must not be negative"):
        crossdock._dataclass_reader(Positive)({"n": -1})


def test_json_that_is_none_says_where() -> None:
    for payload, why in [
        (b"", "there is nothing"),
        (b'{"a":', "line 1 column 6"),
        (b'"\xff"', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ]:
        with pytest.raises(crossdock._Misfit, match=why):
            crossdock._read_json(payload)


def test_records_survive_packing() -> None:
    rng = random.Random(7)
    words = [None, "", "a", "ü" * 100, "x" * 1024]
    for _ in range(300):
        parts: dict[str, Any] = {name: rng.choice(words) for name in crossdock._TEXTS if name != "id"}
        parts["id"] = rng.choice([None, "7"])
        headers = [(f"h{n}", "v" * rng.randrange(50)) for n in range(rng.randrange(4))]
        payload = rng.randbytes(rng.randrange(200))
        times: dict[str, Any] = {name: rng.choice([None, 1_700_000_000_123]) for name in ("expires_at", "deliver_at")}
        priority = rng.randrange(10)
        record = crossdock._pack_record(payload, priority=priority, headers=headers, **parts, **times)
        assert crossdock._payload_bytes(record) == len(payload)
        message = crossdock.Message(record, len(payload))
        assert message.payload == payload and message.headers == dict(headers) and message.priority == priority
        assert {name: getattr(message, name) for name in parts} == parts
        assert (message.expires_at is None) == (times["expires_at"] is None)


def test_headers_survive_msgpack() -> None:
    values = [0, 127, 128, 255, 65536, 2**32, 2**64 - 1, -1, -32, -33, -200, -(2**40), None, True, False, "", "a" * 31,
              "b" * 32, "ü" * 300, "c" * 70000, [], [1, [2, ["x"]]], list(range(20))]  # fmt: skip
    packed = crossdock._pack(values)
    assert crossdock._unpack(packed, 0) == (values, len(packed))


def test_frames_are_cut_wherever_the_stream_is() -> None:
    rng = random.Random(7)
    frames = [([2, n, "topic"], rng.randbytes(rng.choice([0, 3, 5000]))) for n in range(40)]
    stream = b"".join(crossdock._frame(crossdock._pack(header), payload) for header, payload in frames)
    for size in [1, 3, 8, 100, 4096, len(stream)]:
        seen: list[Any] = []
        splitter = crossdock._Splitter()
        for at in range(0, len(stream), size):
            splitter.feed(stream[at : at + size], seen.append)
        assert seen == frames
