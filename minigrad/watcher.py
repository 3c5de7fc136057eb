"""The process that names a rank that dies: minigrad.distributed starts one for each rank of a job.

A rank that is killed, or crashes in compiled code, cannot say so, and the launcher ends the other
ranks without a word about which of them died first. Its watcher waits at a pipe whose other end
only the rank holds, so the pipe is closed when the rank is gone, however it went. The watcher has a
session of its own: a signal to the process group of the rank does not reach it. It holds nothing of
the rank's but the standard error, imports next to nothing, and always ends when the rank does.

The watchers of a job on one machine share a file. The first that finds its rank dead writes to the
file and reports; the others, whose ranks the launcher then kills, find it written and are silent.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress

READY = b"r"  # what the watcher says when it watches: a rank that dies earlier may go unnamed
ENDED = b"e"  # what the rank says before it ends: normally,
REPORTED = b"x"  # or by an exception, which it reports itself
OLD = 60  # seconds after which a report is one of a former job, which was killed with its watchers
LATE = 2  # seconds in which the launcher kills the others, whose watchers may still have to start


def watch(who: str, path: str) -> None:
    """Wait for the end of the rank `who` at the standard input, and report its death unless another
    one has been reported in the file `path`."""
    import fcntl  # which Windows lacks

    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    if os.fstat(file).st_size and time.time() - os.fstat(file).st_mtime > OLD:
        os.ftruncate(file, 0)
    os.write(1, READY)
    word = os.read(0, 1)
    if word != ENDED:
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_size:
            return
        os.write(file, b"reported")
        fcntl.flock(file, fcntl.LOCK_UN)
        if word != REPORTED:
            os.write(2, f"minigrad: {who} died: it was killed, crashed or aborted\n".encode())
        os.closerange(0, 3)  # for the output the rank waits, for the errors the launcher
        time.sleep(LATE)
    with suppress(FileNotFoundError):  # another watcher was first
        os.unlink(path)


if __name__ == "__main__":
    watch(*sys.argv[1:])
