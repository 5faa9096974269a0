"""Blocks the network in the processes that tests start, as pytest-socket does in the tests' own.

Python imports a module of this name at start-up when its folder is on PYTHONPATH, which tests/conftest.py sees to.
"""

import socket

LOCAL = {"127.0.0.1", "::1", "localhost", "0.0.0.0", "", None}
_connect, _connect_ex, _getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


def _refuse_far(address) -> None:
    """Addresses that are not tuples are Unix sockets: local."""
    if isinstance(address, tuple) and address[0] not in LOCAL:
        raise ConnectionRefusedError(f"tests must not use the network: {address[0]}")


def connect(self, address):
    _refuse_far(address)
    return _connect(self, address)


def connect_ex(self, address):
    _refuse_far(address)
    return _connect_ex(self, address)


def getaddrinfo(host, *args, **kwargs):
    if host not in LOCAL and host != socket.gethostname():
        raise socket.gaierror(socket.EAI_NONAME, f"tests must not use the network: {host}")
    return _getaddrinfo(host, *args, **kwargs)


socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo = connect, connect_ex, getaddrinfo
