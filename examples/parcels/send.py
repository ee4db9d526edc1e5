"""Publishes parcels from anywhere, and waits until they are booked.

python send.py 1000                                 with CROSSDOCK_BROKER_URL, CROSSDOCK_USER, CROSSDOCK_PASSWORD
"""

from __future__ import annotations

import sys

import crossdock


def main(count: int) -> None:
    with crossdock.connect() as cd:
        begin = cd.read("bookings", "end").next
        price = cd.invoke("parcels", {"id": "p", "grams": 1200, "to": "Lagos"})
        print(f"a parcel of 1200 g costs {price['cents']} cents")
        # All are on their way at once; each receipt says that its parcel is on the disk.
        sent = [
            cd.send("parcels", {"id": f"p{n}", "grams": 100 * (n % 50 + 1), "to": f"city-{n % 7}"}, key=f"city-{n % 7}")
            for n in range(count)
        ]
        receipts = [future.result() for future in sent]
        print(f"{len(receipts)} parcels are stored, the last one at offset {receipts[-1].offset}")
        booked, cents = 0, 0
        while booked < count:
            page = cd.read("bookings", begin, wait=5)
            begin = page.next
            booked += len(page.messages)
            cents += sum(message.data["cents"] for message in page.messages)
        print(f"{booked} parcels are booked, for {cents} cents")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
