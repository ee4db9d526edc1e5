"""The service NAME: takes orders from the topic NAME.in and passes the good ones on to NAME.out."""

from dataclasses import dataclass

from crossdock import Context, Reject, consume, serve


@dataclass
class Order:  # what a message must look like; one that does not is rejected with the reason
    id: str
    quantity: int


@consume("NAME.in")  # called for each message; raise Retry(after=5) to get it again
def handle(order: Order, ctx: Context) -> None:
    if order.quantity < 1:
        raise Reject("nothing was ordered")  # to the dead letters: crossdock dlq ls NAME.handle
    ctx.publish("NAME.out", order, key=order.id)  # visible together with the acknowledgement, or not at all


@serve()  # answers requests: crossdock service invoke NAME '{"id": "1", "quantity": 2}'
def price(order: Order) -> dict:
    return {"id": order.id, "price": 3 * order.quantity}
