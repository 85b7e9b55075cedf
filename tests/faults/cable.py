"""A cable that is slow, for kernels that cannot delay packets themselves (`netem`): two tunnel devices and who carries between them."""

import fcntl
import os
import selectors
import struct
import threading
import time
from collections import deque

SET_NAME = 0x400454CA  # TUNSETIFF
PACKETS, NO_HEADER = 0x0001, 0x1000  # IFF_TUN, IFF_NO_PI
LARGEST = 65536


class SlowCable:
    """Two network devices; what is sent into one comes out of the other, in order, `delay` seconds later.

    The devices are made where this process is and may then be moved into other network namespaces.

    Raises:
        OSError: If this machine gives no tunnel devices.
    """

    def __init__(self, names: tuple[str, str], delay: float) -> None:
        self.delay = delay
        self.packets = 0
        self.ends = [open_tunnel(name) for name in names]
        self.woken, self.wake = os.pipe()
        self.thread = threading.Thread(target=self.carry, name="slow cable")
        self.thread.start()

    def close(self) -> None:
        """Stop carrying; the devices go."""
        os.close(self.wake)
        self.thread.join()
        for end in (*self.ends, self.woken):
            os.close(end)

    def carry(self) -> None:
        """Take each packet when it comes, and hand it over when its time has come."""
        under_way: deque[tuple[float, int, bytes]] = deque()
        with selectors.DefaultSelector() as selector:
            for end in (*self.ends, self.woken):
                selector.register(end, selectors.EVENT_READ)
            while True:
                wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
                for key, _ in selector.select(wait):
                    if key.fd == self.woken:
                        return
                    other = self.ends[1 - self.ends.index(key.fd)]
                    under_way.append((time.monotonic() + self.delay, other, os.read(key.fd, LARGEST)))
                while under_way and under_way[0][0] <= time.monotonic():
                    _, end, packet = under_way.popleft()
                    hand_over(end, packet)
                    self.packets += 1


def hand_over(end: int, packet: bytes) -> None:
    """Give a packet to a device; one that is down loses it, as a cable does."""
    try:
        os.write(end, packet)
    except OSError:
        return


def open_tunnel(name: str) -> int:
    """Make a device that carries IP packets, and return its other side."""
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(end, SET_NAME, struct.pack("16sH22x", name.encode(), PACKETS | NO_HEADER))
    except OSError:
        os.close(end)
        raise
    return end
