"""What goes wrong with a pretrained model."""

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

_Rest = ParamSpec("_Rest")  # a reader's arguments after the source
_Read = TypeVar("_Read")


class PretrainedError(ValueError):
    """The source cannot be used. The message says what it is, and what would be right."""


def one_line(read: Callable[Concatenate[str, _Rest], _Read]) -> Callable[Concatenate[str, _Rest], _Read]:
    """Makes a reader, whose first argument is the source, refuse what it cannot read by a PretrainedError of one line.

    Parsers meet damaged bytes, and values that make no sense, with every exception there is.
    """

    def wrapped(source: str, /, *args: _Rest.args, **kwargs: _Rest.kwargs) -> _Read:
        cause: Exception
        try:
            return read(source, *args, **kwargs)
        except OSError:  # not of the content; it names its file
            raise
        except PretrainedError as error:
            reason, cause = str(error), error
        except Exception as error:
            reason, cause = f"{source}: is damaged, or no such model: {type(error).__name__}: {error}", error
        raise PretrainedError(" ".join(reason.split())) from cause

    functools.update_wrapper(wrapped, read)
    return wrapped
