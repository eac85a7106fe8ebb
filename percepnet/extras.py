"""Packages that not every installation has: which extra brings them."""

from collections.abc import Iterator
from contextlib import contextmanager


def how_to_install(extra: str) -> str:
    """The command for it, for whom a package is missing."""
    return f"pip install '.[{extra}]' in percepnet's folder"


@contextmanager
def needs(extra: str, what: str, name: str | None = None) -> Iterator[None]:
    """Around imports: where a package is missing, ModuleNotFoundError tells ``what`` needs it and its extra.

    With a ``name`` only for the package that is called as its extra, which is told by that name.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if name is not None and (error.name or "").partition(".")[0] != extra:
            raise
        missing = name or f"the package {error.name}"
        raise ModuleNotFoundError(f"{what} {missing}: {how_to_install(extra)}", name=error.name) from error
