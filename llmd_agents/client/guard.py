"""The lock around the client's own state.

It is one for all, and reentrant. The garbage collector may close an abandoned stream or generator at any
point, within a guarded section too, and what that ends wants to be guarded as well. For the same reason
nothing that takes another lock is called within a section. A process is forked between sections only, so that
the child finds the state whole and the lock free.
"""

import os
import threading
from typing import Final

guard: Final = threading.RLock()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=guard.acquire, after_in_parent=guard.release, after_in_child=guard.release)
