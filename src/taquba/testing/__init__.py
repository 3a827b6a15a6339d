"""Testing with taquba: virtual time, fresh stores, and a pytest plugin.

pytest finds the plugin automatically. It has the fixtures `mock_clock`, `queue` (a fresh memory
store on that clock) and `open_queue` (a factory that takes `Queue.open`'s options).

    async def test_welcome_mail(queue):
        await queue.enqueue("mail", b"ada@example.org")
        assert await drain(queue, "mail", send_mail) == 1

The modules, top to bottom; each uses only those below it:

    _drain       `drain`: run everything that is due, deterministically
    _mock_clock  virtual time
    _open_queue  the type of the `open_queue` fixture
    _plugin      the pytest plugin: fixtures `mock_clock`, `queue` and `open_queue`
"""

from taquba.testing._drain import drain
from taquba.testing._mock_clock import MockClock
from taquba.testing._open_queue import OpenQueue

__all__ = ["MockClock", "OpenQueue", "drain"]
