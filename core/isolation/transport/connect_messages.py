"""Messages of ``ringfence.connect``, both of a fixed form, and their limits."""

from __future__ import annotations

import struct

#: Number of the request, index of the target, milliseconds that the connection may take.
REQUEST = struct.Struct("<IHI")
#: Number of the request, error or 0; then text. Without an error, the socket comes along.
REPLY = struct.Struct("<Ii")
MAX_REASON_BYTES = 300
#: Longest that the host tries to connect; what a name stands for is asked of the resolver besides.
MAX_CONNECT_S = 60.0
