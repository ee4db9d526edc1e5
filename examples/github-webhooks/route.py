"""Sorts GitHub's webhooks: each call goes from `webhooks` to the topic of its event, as it came."""

from crossdock import Context, Message, Reject, consume


@consume("webhooks")
def route(call: Message, ctx: Context) -> None:
    event = call.headers.get("x-github-event")
    if not event:
        raise Reject("there is no X-GitHub-Event header")
    # The id goes along, so that the call is stored once there too. An event that has no topic yet fails, and
    # waits in the dead letters until the topic is there: `crossdock dlq retry route.route`.
    ctx.publish(f"github.{event}", call)
