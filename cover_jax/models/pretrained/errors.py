"""Errors of pretrained models."""

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

_Rest = ParamSpec("_Rest")  # a reader's arguments after the source
_Read = TypeVar("_Read")


class PretrainedError(ValueError):
    """The source cannot be used. The message says what the source is, and what is expected."""


def refuse_unreadable(read: Callable[Concatenate[str, _Rest], _Read]) -> Callable[Concatenate[str, _Rest], _Read]:
    """Decorates a reader, whose first argument is the source: errors become a PretrainedError of one line.

    On damaged bytes and invalid values, parsers raise exceptions of any type.
    """

    def wrapped(source: str, /, *args: _Rest.args, **kwargs: _Rest.kwargs) -> _Read:
        cause: Exception
        try:
            return read(source, *args, **kwargs)
        except OSError:  # not about the content; its message names the file
            raise
        except PretrainedError as error:
            reason, cause = str(error), error
        except Exception as error:
            reason, cause = f"{source}: is damaged, or no such model: {type(error).__name__}: {error}", error
        raise PretrainedError(" ".join(reason.split())) from cause

    functools.update_wrapper(wrapped, read)
    return wrapped
