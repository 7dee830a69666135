"""Whether a Ray cluster answers at an address: asked through a socket with a time limit. Ray itself tries for many minutes."""

from __future__ import annotations

import os
import re
import socket
import threading
from pathlib import Path

from weaksam.errors import ConfigError, RunError

AUTO = "auto"  # the cluster that was started on this machine last
LOCAL = "local"  # a Ray of this process's own

_PATIENCE_S = 5.0  # for a name, for a connection, and for a first answer
_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]@]+):(?P<port>[0-9]{1,5})")
_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # an empty SETTINGS frame
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS  # how a client of gRPC, which is HTTP/2, begins
_FRAME_TYPE = 3  # place in a frame's header


def temporary_folder() -> Path:
    """Return where Ray makes its folder ``ray``, of sessions, logs and sockets: RAY_TMPDIR, else TMPDIR, else /tmp."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp")


def chosen_address(option: str) -> str:
    """Return the address to join: that of ``--address``, else of RAY_ADDRESS; "" for a Ray of this process's own."""
    named = os.environ.get("RAY_ADDRESS", "").strip()
    address = option.strip() or named
    if address == AUTO and named:
        address = named  # as Ray itself reads "auto"
    return "" if address == LOCAL else address


def check_address(address: str) -> None:
    """Return when a cluster answers at an address, or when only Ray can tell.

    Raises:
        ConfigError: it is no address of a cluster's head.
        RunError: nobody answers there, or not as a cluster's head does.
    """
    if address == AUTO:
        address = _started_last()
        if not address:
            return  # Ray looks for the head's process, and says when there is none
    host, port = host_and_port(address)
    reason = _silence(host, port)
    if reason:
        raise no_cluster(address, reason)


def no_cluster(address: str, reason: object) -> RunError:
    """Return the error of a cluster that does not answer."""
    return RunError(
        f"no Ray cluster answers at {address!r} ({reason}); check --address or unset RAY_ADDRESS; if `ray start` said "
        "that token authentication is on, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to that cluster's token unless "
        "~/.ray/auth_token has it"
    )


def host_and_port(address: str) -> tuple[str, int]:
    """Take ``HOST:PORT`` or ``[IPv6]:PORT`` apart; raise ConfigError for anything else."""
    wanted = "expected HOST:PORT of the cluster's head (as `ray start --head` prints it; 6379 unless chosen) or auto"
    scheme, separator, _ = address.partition("://")
    if separator and scheme == "ray":
        raise ConfigError(
            f"--address or RAY_ADDRESS: {wanted}, got {address!r}, which is for Ray Client; where that port cannot be reached, "
            "run the command on the cluster: ray job submit --address http://HOST:8265 -- weaksam …"
        )
    if separator and scheme in ("http", "https"):
        raise ConfigError(
            f"--address or RAY_ADDRESS: {wanted}, got {address!r}, which is for jobs and the dashboard: "
            f"ray job submit --address {address} -- weaksam …"
        )
    match = _HOST_PORT.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 2**16:
        raise ConfigError(f"--address or RAY_ADDRESS: {wanted}, got {address!r}")
    return match["host"].strip("[]"), int(match["port"])


def head_runs() -> bool:
    """Whether the head of a cluster runs on this machine."""
    import psutil

    return any(process.info["name"] == "gcs_server" for process in psutil.process_iter(["name"]))


def _silence(host: str, port: int) -> str:
    """Return why no server of gRPC answers there in time, "" if one does."""
    try:
        ip = _resolved(host, port)
        with socket.create_connection((ip, port), timeout=_PATIENCE_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return ""  # it would answer to nobody without a certificate
            connection.sendall(_GREETING)
            answer = b""
            while len(answer) < len(_SETTINGS):
                part = connection.recv(len(_SETTINGS) - len(answer))
                if not part:
                    return "it hangs up: something else listens there"
                answer += part
    except TimeoutError:
        return f"no answer within {_PATIENCE_S:g} s"
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or str(error)
    return "" if answer[_FRAME_TYPE] == _SETTINGS[_FRAME_TYPE] else "something else listens there"


def _resolved(host: str, port: int) -> str:
    """Return a host's IP address; a name server that says nothing costs no more than our patience."""
    found: list[str] = []
    failed: list[Exception] = []

    def look_up() -> None:
        try:
            found.append(str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]))
        except (OSError, UnicodeError) as error:
            failed.append(error)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(_PATIENCE_S)
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError
    return found[0]


def _started_last() -> str:
    """Return where the cluster should be that `ray start` started here last, unless a head's process runs; "" if unknown."""
    try:
        address = (temporary_folder() / "ray" / "ray_current_cluster").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return "" if head_runs() or _HOST_PORT.fullmatch(address) is None else address
