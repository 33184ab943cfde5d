"""What a plugin may be granted to connect to: a server on this machine, and one that answers nobody."""

import contextlib
import socket
import threading


class Server:
    """Answers every connection with ``reply``, and keeps what it hears."""

    def __init__(self, reply, address="127.0.0.1"):
        self.heard = []
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.create_server((address, 0), family=family)
        self._reply = reply
        self.port = self._socket.getsockname()[1]
        # Whoever fails before it is closed is to end, and not to wait for it.
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(ConnectionError):
                self.heard.append(connection.recv(100))
                connection.sendall(self._reply)

    def close(self):
        if self._socket.fileno() >= 0:
            self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        self._thread.join(5.0)


@contextlib.contextmanager
def deaf():
    """Listen with a full queue; gives the port."""
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
