"""The benchmark measures what it says: a small run of it, with both brokers."""

from __future__ import annotations

import json

import pytest
from benchmarks.distribution import broker

from edgectl_server.distribution.mosquitto import find_mosquitto


@pytest.mark.mosquitto
def test_a_small_run(capsys):
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed")
    arguments = ["--rounds", "1", "--devices", "12", "--messages", "200", "--chunks", "24"]
    arguments += ["--seconds", "0.5"]
    assert broker.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert result["benchmark"] == "broker"
    for kind in broker.KINDS:
        assert set(result[kind]) == set(broker.ROWS)
        assert all(value >= 0 for value in result[kind].values())
        assert result[kind]["message_rate"] > 0
        assert result[kind]["retained_megabytes_s"] > 0
    assert [line for line in lines if line.startswith("such messages a second")]
