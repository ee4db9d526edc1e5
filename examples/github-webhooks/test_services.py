"""The services of this example, tested without a server: `pytest` in this folder, with the SDK installed."""

import crossdock
import pytest

import route as routing
import stats as counting

PUSH = {"repository": {"full_name": "octocat/hello"}, "ref": "refs/heads/main"}


@pytest.fixture
def sandbox():
    counting.counts.clear()
    counting.read_up_to = 0
    return crossdock.Sandbox()


def ask(sandbox, repository="octocat/hello"):
    owner, repo = repository.split("/")
    return sandbox.run(counting.stats, params={"owner": owner, "repo": repo}, method="GET")


def test_a_call_goes_to_the_topic_of_its_event_as_it_came():
    body = b'{ "zen":  "Responsive is better than fast." }'
    headers = {"x-github-event": "ping"}
    result = crossdock.run(routing.route, body, id="d1", headers=headers, content_type="application/json")
    assert result.outcome == "ack"
    (output,) = result.outputs
    assert (output.topic, output.payload, output.id) == ("github.ping", body, "d1")
    assert output.content_type == "application/json"


def test_a_call_without_an_event_is_rejected():
    result = crossdock.run(routing.route, {})
    assert result.outcome == "reject" and "X-GitHub-Event" in result.reason


def test_the_count_is_the_sum_of_the_topic(sandbox):
    for topic, delivery in [("github.push", "1"), ("github.push", "2"), ("github.issues", "3")]:
        assert sandbox.run(counting.count, PUSH, topic=topic, id=delivery).outcome == "ack"
    expected = {"repository": "octocat/hello", "events": 3, "by_event": {"issues": 1, "push": 2}}
    assert ask(sandbox).reply == expected
    assert ask(sandbox).reply == expected, "asking changes nothing"

    # A process that starts again knows nothing, and finds the same.
    counting.counts.clear()
    counting.read_up_to = 0
    assert ask(sandbox).reply == expected


def test_calls_about_no_repository_count_for_none(sandbox):
    sandbox.publish(counting.TOPIC, {"repository": "octocat/hello", "event": "push"})
    result = sandbox.run(counting.count, {"zen": "Design for failure."}, topic="github.ping", id="1")
    assert result.outcome == "ack" and result.outputs == []
    unknown = ask(sandbox, "octocat/nothing")
    assert unknown.status == 404 and "octocat/nothing" in unknown.reply["error"]
