"""Limits of gunicorn on request heads, beyond those that the server has itself."""

from __future__ import annotations

from ..errors import PeerProtocolError
from ..server.head import FieldMemory, HeadParser, RequestHead


class LimitedHeads(HeadParser):
    """Parses heads, under gunicorn's limits.

    Source:
        gunicorn settings, "limit_request_line", "limit_request_field_size", "header_map".
    """

    def __init__(
        self, line_bytes: int, most_fields: int, field_bytes: int, refuse_underscores: bool
    ) -> None:
        """Set the limits.

        Args:
            line_bytes: most bytes of the request line, without its end.
            most_fields: most header fields.
            field_bytes: most bytes of one of them, with its end; 0 for as many as the head may have.
            refuse_underscores: answer 400 to names with underscores, which could pass for those with hyphens.
        """
        super().__init__(line_bytes, most_fields)
        self._line_bytes = line_bytes
        self._field_bytes = field_bytes
        self._refuse_underscores = refuse_underscores
        # Heads that are not larger need no second look.
        self._harmless_bytes = min(line_bytes, field_bytes or line_bytes)

    def parse(self, data: bytes, memory: FieldMemory) -> RequestHead:
        """Parse a head, as ``HeadParser`` does.

        Raises:
            PeerProtocolError: it must be refused, with ``status_hint``, and the connection closed.
        """
        large = len(data) > self._harmless_bytes
        if large and data.find(b"\r\n") > self._line_bytes:
            raise PeerProtocolError(
                f"the request line is longer than {self._line_bytes} bytes",
                "RFC 9110 section 15.5.15",
                status_hint=414,
            )
        head = super().parse(data, memory)
        if large and self._field_bytes:
            self._check_sizes(head)
        if self._refuse_underscores and any(b"_" in name for name, _ in head.headers):
            raise PeerProtocolError("the name of a header field has an underscore")
        return head

    def _check_sizes(self, head: RequestHead) -> None:
        around = len(b": \r\n")
        for name, value in head.headers:
            if len(name) + len(value) + around > self._field_bytes:
                raise PeerProtocolError(
                    f"a header field is larger than {self._field_bytes} bytes",
                    "RFC 6585 section 5",
                    status_hint=431,
                )
