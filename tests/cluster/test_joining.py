"""Joining a cluster that is not there; what joins one that is, the sweeps' own tests show."""

from __future__ import annotations

import socket
import stat

import pytest

from ganatomy.cluster.joining import connected, keep_token_private, leave_ray, start_ray
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


def test_the_token_of_a_cluster_is_for_its_owner_alone(tmp_path, monkeypatch):
    """Ray writes it for all to read, and whoever has it runs code as its owner."""
    monkeypatch.setenv("HOME", str(tmp_path))
    keep_token_private()
    assert stat.S_IMODE((tmp_path / ".ray").stat().st_mode) == 0o700
    token = tmp_path / ".ray" / "auth_token"
    token.write_text("token")
    token.chmod(0o644)
    keep_token_private()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_a_ray_whose_workers_were_told_nothing_cannot_serve_and_is_left_as_it_was(ray_cluster):
    here = connected()
    with pytest.raises(InputError, match=r"workers do not know .*GANATOMY_X.*ray\.shutdown\(\) first"):
        start_ray("", {"GANATOMY_X": "1"})
    leave_ray()
    assert connected() == here != ""
