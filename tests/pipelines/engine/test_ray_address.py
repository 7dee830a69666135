from __future__ import annotations

import socket
import threading
from pathlib import Path

import psutil
import pytest

from pipelines.engine import ray_address
from pipelines.engine.ray_address import check_address, chosen_address, host_and_port
from tests.support.listening import HTTP, SETTINGS, free_port, server
from weaksam.errors import ConfigError, RunError


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_address, "_PATIENCE_S", 0.2)


def test_a_server_of_grpc_passes() -> None:
    with server(SETTINGS) as address:
        check_address(address)


@pytest.mark.parametrize(
    ("answer", "reason"), [(HTTP, "something else"), (b"", "hangs up|reset by peer"), (None, "no answer within")]
)
def test_whatever_else_listens_is_told(answer: bytes | None, reason: str, impatient: None) -> None:
    with server(answer) as address, pytest.raises(RunError, match=reason) as raised:
        check_address(address)
    assert f"no Ray cluster answers at '{address}'" in str(raised.value)
    assert "RAY_AUTH_MODE=token" in str(raised.value)
    assert "RAY_AUTH_TOKEN to that cluster's" in str(raised.value)


def test_a_cluster_that_is_gone_is_told_at_once() -> None:
    with pytest.raises(RunError, match="refused"):
        check_address(f"127.0.0.1:{free_port()}")


def test_a_name_that_nobody_knows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(RunError, match="Name or service not known"):
        check_address("head.invalid:6379")


def test_a_name_server_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, impatient: None) -> None:
    silent = threading.Event()

    def wait(*_: object, **__: object) -> None:
        silent.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", wait)
    with pytest.raises(RunError, match="no answer within"):
        check_address("head.example:6379")
    silent.set()


REFUSED = {
    "ray://127.0.0.1:10001": ["HOST:PORT", "Ray Client", "ray job submit"],
    "http://127.0.0.1:8265": ["HOST:PORT", "dashboard", "ray job submit --address http://127.0.0.1:8265"],
    "https://head:8265": ["HOST:PORT", "dashboard"],
    "redis://head:6379": ["HOST:PORT", "got 'redis://head:6379'"],
    "head": ["HOST:PORT", "got 'head'"],
    "head:": ["HOST:PORT"],
    ":6379": ["HOST:PORT"],
    "head:0": ["HOST:PORT"],
    "head:70000": ["HOST:PORT"],
    "head:٦٣٧٩": ["HOST:PORT"],
    "a b:6379": ["HOST:PORT"],
    "::1:6379": ["HOST:PORT"],
}


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_no_address_of_a_head_is_refused_with_what_to_give(address: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check_address(address)
    assert "\n" not in str(raised.value)
    for part in REFUSED[address]:
        assert part in str(raised.value)


def test_addresses_are_taken_apart() -> None:
    assert host_and_port("head.example:6379") == ("head.example", 6379)
    assert host_and_port("[::1]:1") == ("::1", 1)


def test_the_option_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert [chosen_address(a) for a in ("", "auto", "local", "a:1", " a:1 ")] == ["", "auto", "", "a:1", "a:1"]
    monkeypatch.setenv("RAY_ADDRESS", "b:2")
    assert [chosen_address(a) for a in ("", "auto", "local", "a:1")] == ["b:2", "b:2", "", "a:1"]
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert chosen_address("") == ""


def test_auto_knows_a_cluster_that_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(psutil, "process_iter", lambda _: iter(()))
    check_address("auto")  # nothing is recorded: Ray looks for itself
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{free_port()}")
    with pytest.raises(RunError, match="refused"):
        check_address("auto")
