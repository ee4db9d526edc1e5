"""Tests of the service NAME, without a server: pytest test_MODULE.py"""

import crossdock
import MODULE


def test_an_order_is_passed_on():
    result = crossdock.run(MODULE.handle, {"id": "1", "quantity": 2})
    assert result.outcome == "ack"
    assert [output.topic for output in result.outputs] == ["NAME.out"]


def test_an_empty_order_goes_to_the_dead_letters():
    result = crossdock.run(MODULE.handle, {"id": "1", "quantity": 0})
    assert result.outcome == "reject"


def test_the_price():
    assert MODULE.price(MODULE.Order("1", 2)) == {"id": "1", "price": 6}
