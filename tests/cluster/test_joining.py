"""Joining a cluster that is not there; what joins one that is, the sweeps' own tests show."""

from __future__ import annotations

import socket

import pytest

from ganatomy.cluster.joining import start_ray
from ganatomy.contracts import InputError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("by", ["option", "environment"])
def test_a_cluster_that_does_not_answer_is_told_in_one_line(by, monkeypatch, capfd):
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address if by == "environment" else "10.0.0.1:1")
    with pytest.raises(InputError, match=rf"no Ray cluster answers at {address}.*ray up cluster\.yaml"):
        start_ray(address if by == "option" else "")
    assert capfd.readouterr().err == ""
