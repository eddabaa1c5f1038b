"""Processes that share work, each on one thread.

Workers are forked, so they find the work in memory: nothing is pickled, and classes and functions may be defined
anywhere, a notebook included. Where there is no fork, or little to do, the work is done here.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import struct
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import FrameType, TracebackType

import torch

from toysup.checks import InputError

__all__ = ["Tell", "in_parallel", "interruptible", "usable_workers"]

Tell = Callable[[float, float], None]
Work = Callable[[Tell], bool]  # False where somebody else is at it, to be asked again
NEWS = struct.Struct("dd")  # short enough for a pipe to take it whole, without a lock
PAUSE = 0.2  # seconds, before asking again

_QUEUES: list[Sequence[Work]] = []
_NEWS: list[int] = []


def usable_workers(wanted: int | None) -> int:
    """How many processes to use: `wanted`, or one for each core; 1 where forking is not safe or not allowed.

    A daemonic process, such as a worker of `multiprocessing.Pool`, may have no children. Off Linux there is one
    process, which is said where more were asked for.
    """
    linux, main = sys.platform == "linux", threading.current_thread() is threading.main_thread()
    if wanted is not None and wanted > 1 and not linux:
        said = f"one process does the work: on {sys.platform} a process with a BLAS in it can't be forked"
        warnings.warn(said, RuntimeWarning, stacklevel=3)
    safe = linux and main and not multiprocessing.current_process().daemon
    return (wanted or len(os.sched_getaffinity(0))) if safe else 1


def in_parallel(queues: Sequence[Sequence[Work]], workers: int, tell: Tell) -> None:
    """Do all the work, each queue in its order by one worker, queues in order as workers become free.

    A piece of work is called with a function that reports two numbers, which reach `tell` here; one that answers False
    comes again when the others are done. The first exception ends everything and is raised here; a worker that was
    killed raises RuntimeError.
    """
    if workers == 1 or len(queues) <= 1:
        _alone(queues, tell)
        return
    try:
        read, news = os.pipe()
    except OSError as error:
        _refused(error)
        _alone(queues, tell)
        return
    _QUEUES[:], _NEWS[:] = queues, [news]

    def listen() -> None:  # until the last writer is gone
        while said := os.read(read, NEWS.size):
            tell(*NEWS.unpack(said))

    listener = threading.Thread(target=listen, daemon=True)
    pool: ProcessPoolExecutor | None = None
    try:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # forking beside idle library threads
                pool = ProcessPoolExecutor(
                    min(workers, len(queues)),
                    multiprocessing.get_context("fork"),
                    initializer=_start,
                    initargs=(os.getpid(),),
                )
                waiting = {pool.submit(_work_off, number, range(len(queue))) for number, queue in enumerate(queues)}
        except OSError as error:  # a limit on processes or open files
            _refused(error)
            _killed(pool)
            _alone(queues, tell)
            return
        listener.start()
        later: list[tuple[int, list[int]]] = []
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            later += [answer for answer in (future.result() for future in done) if answer[1]]
            if later and not waiting:
                time.sleep(PAUSE)
                waiting, later = {pool.submit(_work_off, *busy) for busy in later}, []
    except BrokenProcessPool:
        raise RuntimeError(
            "a worker was killed (out of memory?); finished chunks are kept, run again to go on"
        ) from None
    except InputError as error:
        error.__cause__ = None  # the worker's own traceback
        raise
    except BaseException:  # interrupted: what workers are at now is kept as far as they had got
        _killed(pool)
        raise
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
        os.close(news)
        if listener.is_alive():
            listener.join()
        os.close(read)
        _QUEUES.clear()


def _refused(error: OSError) -> None:
    warnings.warn(f"one process does the work: no more can be started ({error.strerror})", RuntimeWarning, stacklevel=4)


def _killed(pool: ProcessPoolExecutor | None) -> None:
    for process in list((getattr(pool, "_processes", None) or {}).values()):
        with contextlib.suppress(Exception):
            process.kill()


def _alone(queues: Sequence[Sequence[Work]], tell: Tell) -> None:
    pieces = [piece for queue in queues for piece in queue]
    while pieces:
        busy = [piece for piece in pieces if not piece(tell)]
        if busy:
            time.sleep(PAUSE)
        pieces = busy


def _start(parent: int) -> None:
    def watch() -> None:  # a worker must not outlive a parent that was killed
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=watch, daemon=True).start()
    torch.set_num_threads(1)


def _work_off(number: int, positions: Sequence[int]) -> tuple[int, list[int]]:
    """Do pieces of a queue; those that somebody else is at come back."""
    pieces, news = _QUEUES[number], _NEWS[0]
    return number, [at for at in positions if not pieces[at](lambda a, b: os.write(news, NEWS.pack(a, b)))]


class _Terminated(BaseException):
    """SIGTERM arrived."""


@contextlib.contextmanager
def interruptible(said: Callable[[], str]) -> Iterator[None]:
    """Let Ctrl-C, SIGINT and SIGTERM end the work inside with one line, `said()`.

    A KeyboardInterrupt goes on to the caller; where nobody catches it, that line stands in the place of its traceback.
    After SIGTERM the line is printed and the process ends (SystemExit 143), as it would have.
    """
    main = threading.current_thread() is threading.main_thread()
    take = main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    def terminated(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    if take:
        signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    except KeyboardInterrupt:
        interrupt = KeyboardInterrupt(said())
        _show_only_the_line(interrupt)
        raise interrupt from None
    except _Terminated:
        if sys.stderr is not None:
            print(said(), file=sys.stderr, flush=True)
        raise SystemExit(128 + signal.SIGTERM) from None
    finally:
        if take:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _show_only_the_line(interrupt: KeyboardInterrupt) -> None:
    before = sys.excepthook

    def hook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> None:
        sys.excepthook = before
        if value is not interrupt:
            before(kind, value, trace)
        elif sys.stderr is not None:
            print(value, file=sys.stderr, flush=True)

    sys.excepthook = hook
