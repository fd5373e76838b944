"""Runs a command until standard input closes: `python -m harness.guard COMMAND …`.

However the process that holds the other end dies, the command and all that it started end with it. They are
killed at once if anything is written there.
"""

import os
import signal
import subprocess
import sys
import threading
import time

GRACE_S = 15.0


def main() -> int:
    # A group of its own, so that the command's own children can be ended with it.
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    # The terminal's interrupt comes to the group of whoever started this; they close standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_input, args=(child.pid,), daemon=True).start()
    code = child.wait()
    _end(child.pid)
    return code


def _end_with_input(group: int) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        _signal(group, signal.SIGTERM)
        time.sleep(GRACE_S)
    _signal(group, signal.SIGKILL)


def _end(group: int) -> None:
    """The command has ended: what it started gets a moment to follow."""
    deadline = time.monotonic() + 5.0
    while _signal(group, 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal(group, signal.SIGKILL)


def _signal(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
