"""Models are built when first used, by whichever thread that is."""

import subprocess
import sys

FROM_MANY_THREADS = """
import threading
from llmd_agents.hints import *

assert "MockValSer" in type(Hints.__pydantic_validator__).__name__, "built by the import"
ready, made = threading.Barrier(16), []

def use():
    ready.wait()
    hints = Hints(program=Program(id="p"), step=Step(id="s", fork=ForkPosition(id="f", index=0, width=2)))
    event = ProgramStarted(program="p", at=1.0, declared=hints.program)
    assert decode_hints(encode_hints(hints)).hints == hints
    made.append(decode_events(encode_events([event])) == [event])

threads = [threading.Thread(target=use) for _ in range(16)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(made.count(True))
"""


def test_many_threads_may_be_the_first() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FROM_MANY_THREADS], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ran.stdout.strip(), ran.stderr) == ("16", "")
