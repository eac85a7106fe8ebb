"""Work on many files at once, in processes that each keep to one core."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any, Final, TypeVar

from percepnet.cli import describe

ENDED: Final = 128  # and the signal's number: exit status, as shells have it

Task = TypeVar("Task")
Result = TypeVar("Result")


def end_in_order() -> None:
    """Let SIGTERM and SIGHUP end this process as an error does, so that what it has begun is undone."""
    if threading.current_thread() is not threading.main_thread():  # who calls from another decides for itself
        return
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number and signal.getsignal(number) is signal.SIG_DFL:  # and not ignored, as by nohup
            signal.signal(number, lambda number, _: sys.exit(ENDED + number))


def each(
    function: Callable[[Task], Result], tasks: Sequence[Task], jobs: int
) -> Iterator[tuple[int, Result | Exception]]:
    """``function`` of every task, as ``(index, result)`` in the order of completion.

    OSError and ValueError of one task are its result; anything else is a fault of the program and is raised.
    ``function`` and tasks must pickle where ``jobs`` > 1.
    """
    if jobs == 1 or len(tasks) == 1:
        for index, task in enumerate(tasks):
            yield index, _attempt(function, task)
        return
    # spawn: a fork would copy the locks of onnxruntime's and BLAS's threads in whatever state they are
    context = multiprocessing.get_context("spawn")
    workers = ProcessPoolExecutor(min(jobs, len(tasks)), context, end_with_starter)
    with one_thread_each(), workers as pool:
        with interrupts_blocked():
            futures = {pool.submit(_attempt, function, task): index for index, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:  # Ctrl-C, too: nobody waits for what is under way
            for worker in list(pool._processes.values()):
                worker.terminate()
            raise


def collect(
    function: Callable[[Task], Result], tasks: Sequence[Task], jobs: int, labels: Sequence[object], bar: Any
) -> dict[int, Result]:
    """The results of ``each``, by index and in the tasks' order; one that failed is named on ``bar`` and left out."""
    found: dict[int, Result] = {}
    for index, result in each(function, tasks, jobs):
        if isinstance(result, Exception):
            bar.write(f"percepnet: {labels[index]}: {describe(result)}", file=sys.stderr)
        else:
            found[index] = result
        bar.update(1)
    return dict(sorted(found.items()))


def end_with_starter() -> None:
    """Let this process end when the one that has started it does, by whatever signal: nobody waits for its work."""
    starter = multiprocessing.parent_process()
    assert starter is not None

    def follow() -> None:
        starter.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Processes started inside never see SIGINT: Ctrl-C is for the one that starts them."""
    resource_tracker.ensure_running()  # else start() does it, and unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _attempt(function: Callable[[Task], Result], task: Task) -> Result | Exception:
    try:
        return function(task)
    except (OSError, ValueError) as error:
        return error


@contextmanager
def one_thread_each() -> Iterator[None]:
    """BLAS in processes started inside keeps to one thread: it reads these variables when it is loaded."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]
        os.environ.update(before)
