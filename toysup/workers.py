"""Processes that share work, each on one thread.

Workers are forked, so they find the work in memory: nothing is pickled, and classes and functions may be defined
anywhere, a notebook included. Where there is no fork, or little to do, the work is done here.
"""

from __future__ import annotations

import multiprocessing
import os
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import torch

__all__ = ["Tell", "in_parallel", "usable_workers"]

Tell = Callable[[float, float], None]
Work = Callable[[Tell], None]
NEWS = struct.Struct("dd")  # short enough for a pipe to take it whole, without a lock

_QUEUES: list[Sequence[Work]] = []
_NEWS: list[int] = []


def usable_workers(wanted: int | None) -> int:
    """How many processes to use: `wanted`, or one for each core; 1 where forking is not safe or not allowed.

    A daemonic process, such as a worker of `multiprocessing.Pool`, may have no children.
    """
    safe = sys.platform == "linux" and threading.current_thread() is threading.main_thread()
    safe = safe and not multiprocessing.current_process().daemon
    return (wanted or len(os.sched_getaffinity(0))) if safe else 1


def in_parallel(queues: Sequence[Sequence[Work]], workers: int, tell: Tell) -> None:
    """Do all the work, each queue in its order by one worker, queues in order as workers become free.

    A piece of work is called with a function that reports two numbers, which reach `tell` here. The first exception
    ends everything and is raised here; a worker that was killed raises RuntimeError.
    """
    if workers == 1 or len(queues) <= 1:
        for queue in queues:
            for piece in queue:
                piece(tell)
        return
    read, news = os.pipe()
    _QUEUES[:], _NEWS[:] = queues, [news]

    def listen() -> None:  # until the last writer is gone
        while said := os.read(read, NEWS.size):
            tell(*NEWS.unpack(said))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside idle library threads, as DataLoader does
        pool = ProcessPoolExecutor(
            min(workers, len(queues)), multiprocessing.get_context("fork"), initializer=_start, initargs=(os.getpid(),)
        )
        waiting = {pool.submit(_work_off, position) for position in range(len(queues))}
    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
    except BrokenProcessPool:
        raise RuntimeError(
            "a worker was killed (out of memory?); finished chunks are kept, run again to go on"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        os.close(news)
        listener.join()
        os.close(read)
        _QUEUES.clear()


def _start(parent: int) -> None:
    def watch() -> None:  # a worker must not outlive a parent that was killed
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    torch.set_num_threads(1)


def _work_off(position: int) -> None:
    for piece in _QUEUES[position]:
        piece(lambda a, b: os.write(_NEWS[0], NEWS.pack(a, b)))
