"""Counts the events of each repository, exactly, through any number of crashes.

The count is not kept in this process: it is the sum of a topic. Each call about a repository adds one record to
`repository-events`, which becomes visible together with the call's acknowledgement or not at all. What this process
has in memory is how far it has read that topic and the sum up to there, so that a question only reads what is new.
A process that starts again reads it from the start; several processes each have the same sum.
"""

from collections import Counter, defaultdict
from typing import Dict

from crossdock import Context, Message, Response, consume, serve

TOPIC = "repository-events"

counts: Dict[str, Counter] = defaultdict(Counter)
read_up_to = 0


@consume("github.**")
def count(call: Message, ctx: Context) -> None:
    repository = (call.json().get("repository") or {}).get("full_name")
    if repository and call.topic:
        event = call.topic.removeprefix("github.")
        ctx.publish(TOPIC, {"repository": repository, "event": event}, key=repository, id=call.id)


@serve()
def stats(ctx: Context) -> Response:
    global read_up_to
    while True:
        page = ctx.read(TOPIC, read_up_to)
        for record in page.messages:
            entry = record.json()
            counts[entry["repository"]][entry["event"]] += 1
            read_up_to = record.offset + 1
        if not page.messages:
            break
    repository = f"{ctx.params.get('owner')}/{ctx.params.get('repo')}"
    if repository not in counts:
        return Response({"error": f"nothing is known of {repository}"}, status=404)
    events = counts[repository]
    return Response({"repository": repository, "events": sum(events.values()), "by_event": dict(sorted(events.items()))})
