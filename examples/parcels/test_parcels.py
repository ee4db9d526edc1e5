from __future__ import annotations

import parcels

import crossdock


def test_a_parcel_is_booked_for_what_it_costs() -> None:
    parcel = {"id": "p1", "grams": 1200, "to": "Lagos"}
    assert crossdock.run(parcels.price, parcel).reply == {"cents": 286}
    result = crossdock.run(parcels.book, parcel)
    assert result.outcome == "ack"
    assert [(o.topic, o.key, o.data) for o in result.outputs] == [("bookings", "Lagos", {"parcel": "p1", "cents": 286})]


def test_a_parcel_that_weighs_nothing_is_rejected() -> None:
    result = crossdock.run(parcels.book, {"id": "p2", "grams": 0, "to": "Lagos"})
    assert (result.outcome, result.outputs) == ("reject", [])
