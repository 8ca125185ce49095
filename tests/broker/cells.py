"""The cells of the access matrix, made from the protocol's table and what a hostile mind adds.

For every rule: the topics that it allows, and for each of those the near misses: another device's,
a level more, a level less, an empty level, other capitals, wildcards in each place, `$`-topics,
`$share` groups. What is expected of a cell is what the table says, nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgectl_protocol.topics import ACCESS

DEVICES = ("alpha", "beta")
BLOB = "ab" * 32
ENDS = {
    "edgectl/v1/meta/#": ("meta/head", "meta/root/1"),
    "edgectl/v1/blob/#": (f"blob/{BLOB}/0", f"blob/{BLOB}/index"),
    "edgectl/v1/d/+/down/#": ("d/alpha/down/order", "d/beta/down/ack", "d/beta/down/cmd"),
    "edgectl/v1/d/%u/down/#": ("d/alpha/down/order", "d/beta/down/ack", "d/alpha/down/cmd"),
    "edgectl/v1/#": ("d/alpha/up/state", "d/beta/up/event", "meta/head"),
}


def exact_topics() -> list[str]:
    """Return topics that some rule allows to somebody."""
    found = []
    for rule in ACCESS:
        if rule.pattern in ENDS:
            found += [f"edgectl/v1/{end}" for end in ENDS[rule.pattern]]
        else:
            assert "#" not in rule.pattern, "give ENDS what lies under this new rule"
            found += [rule.pattern.replace("%u", device) for device in DEVICES]
    return list(dict.fromkeys(found))


def _near(topic: str) -> Iterator[str]:
    levels = topic.split("/")
    yield f"{topic}/more"
    yield f"{topic}/"
    yield f"/{topic}"
    yield "/".join(levels[:-1])
    yield topic.upper()
    yield topic.replace("alpha", "ALPHA")
    yield topic.replace("/v1/", "/v2/")
    yield topic.replace("d/alpha", "d/alpha/d/alpha")
    for place in range(len(levels)):
        yield "/".join([*levels[:place], "", *levels[place + 1 :]])
    yield f"$SYS/{topic}"
    yield f"${topic}"


def publish_topics() -> list[str]:
    """Return what is published to: no wildcard, which no packet may carry."""
    exact = exact_topics()
    others = ["other/topic", "$SYS/broker/uptime", "$CONTROL/dynamic-security/v1", "edgectl"]
    others += [f"edgectl/v1/d/{name}/up/state" for name in ("server", "broker", "%u", "%c", "..")]
    others += [f"edgectl/v1/d/alpha/up/state/{number}" for number in range(3)]
    return list(dict.fromkeys([*exact, *(near for one in exact for near in _near(one)), *others]))


def _wild(topic: str) -> Iterator[str]:
    levels = topic.split("/")
    for place in range(len(levels)):
        yield "/".join([*levels[:place], "+", *levels[place + 1 :]])
        yield "/".join([*levels[:place], "#"])
    yield "/".join("+" * len(levels))


def subscribe_filters() -> list[str]:
    """Return filters: exact ones, all their wildcards, and those in a shared group."""
    exact = exact_topics()
    others = ["$SYS/#", "$SYS/broker/+", "+/+/d/+/down/order", "other/#", "edgectl/v1/d/%u/down/#"]
    plain = [*exact, *(wild for one in exact for wild in _wild(one)), *others]
    plain = list(dict.fromkeys(plain))
    return [*plain, *(f"$share/thieves/{one}" for one in plain)]
