"""A service that runs anywhere: it prices parcels and books them, hosted from outside of the server.

python parcels.py                                   with CROSSDOCK_BROKER_URL, CROSSDOCK_USER, CROSSDOCK_PASSWORD
python -m crossdock run parcels.py --broker crossdock://127.0.0.1:7402
crossdock service deploy parcels.py                 the same file, inside
"""

from __future__ import annotations

from dataclasses import dataclass

import crossdock
from crossdock import Context, Reject, consume, serve


@dataclass
class Parcel:
    id: str
    grams: int
    to: str


def price_of(parcel: Parcel) -> int:
    return 250 + 3 * (parcel.grams // 100)


@consume("parcels", order="key")
def book(parcel: Parcel, ctx: Context) -> None:
    if parcel.grams < 1:
        raise Reject(f"parcel {parcel.id} weighs nothing")
    # The booking becomes visible together with the acknowledgement of the parcel, or not at all.
    ctx.publish("bookings", {"parcel": parcel.id, "cents": price_of(parcel)}, key=parcel.to)


@serve()
def price(parcel: Parcel) -> dict[str, int]:
    return {"cents": price_of(parcel)}


if __name__ == "__main__":
    crossdock.host()
