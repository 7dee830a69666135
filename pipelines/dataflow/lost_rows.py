"""Why Ray Data lost rows: it goes on without those of a task that raised, and says why in its log only."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pipelines.store.explain import explain, storage_failure


class _Errors(logging.Handler):
    """Keeps the exceptions that are logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self.found.append(record.exc_info[1])


@contextmanager
def errors_of_tasks(folder: str) -> Iterator[list[BaseException]]:
    """Give the errors of the tasks that Ray Data runs in the body, which write into a folder, once it has ended.

    Raises:
        StorageError: one of them, or the body, failed because a storage fails as a whole; whatever followed is not told.
    """
    data, errors = logging.getLogger("ray.data"), _Errors()
    data.addHandler(errors)
    try:
        yield errors.found
    except Exception as error:
        _raise_storage_failure([*errors.found, error], folder)
        raise
    finally:
        data.removeHandler(errors)
    _raise_storage_failure(errors.found, folder)


def first_of_our_code(errors: Iterable[BaseException]) -> BaseException | None:
    """Return the first error that is more than the death of the process that a task ran in, explained where it can be."""
    from ray.exceptions import RayError, RayTaskError, UserCodeException

    for error in errors:
        if not isinstance(error, RayError) or isinstance(error, RayTaskError | UserCodeException):
            return explain(error) or error
    return None


def _raise_storage_failure(errors: list[BaseException], folder: str) -> None:
    for error in errors:
        if told := storage_failure(error, folder):
            raise told from error
