"""Where and for whom the page is served."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from stream.bus import Address, BusError
from stream.dashboard import DashboardError

DEFAULT_PAGE = "127.0.0.1:5570"


@dataclass
class DashboardOptions:
    """Serve the live page of a running session, or of one that is yet to start."""

    page: str = DEFAULT_PAGE
    """HOST:PORT of the page. Beyond loopback a token is demanded."""
    token: str = ""
    """What a page beyond loopback must know; made up and printed where none is given."""
    cert: str = ""
    """TLS certificate (PEM), with --key: browsers give their camera to https or to their own machine only."""
    key: str = ""
    """The certificate's private key (PEM)."""
    preview: bool = False
    """Show the picture of this machine's camera on pages beyond loopback, too."""

    @property
    def address(self) -> Address:
        """Raises DashboardError."""
        try:
            return Address.parse(self.page)
        except BusError as error:
            raise DashboardError(f"--page {self.page}: write HOST:PORT, for example {DEFAULT_PAGE}") from error

    def secured(self) -> DashboardOptions:
        """With a token where one is needed. Raises DashboardError when certificate and key do not make a pair of files."""
        if bool(self.cert) != bool(self.key):
            raise DashboardError("give the page's certificate and its key together, or neither")
        for file in (self.cert, self.key):
            if file and not Path(file).is_file():
                raise DashboardError(f"{file}: no such file; the page's certificate and key are PEM files")
        token = self.token or ("" if self.address.local else secrets.token_urlsafe(18))
        return DashboardOptions(self.page, token, self.cert, self.key, self.preview)

    @property
    def url(self) -> str:
        """What a person opens."""
        host = socket.gethostname() if self.address.host in ("*", "0.0.0.0", "[::]") else self.address.host
        return f"http{'s' if self.cert else ''}://{host}:{self.address.port}/" + (f"?token={self.token}" if self.token else "")

    @property
    def shows_pictures(self) -> bool:
        return self.preview or self.address.local


def free(page: str) -> str:
    """`page`, or a free port of the same host where the default one is taken by another session's page."""
    address = Address.parse(page)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError:
            with socket.socket() as other:
                other.bind((address.host, 0))
                return f"{address.host}:{other.getsockname()[1]}"
    return page
