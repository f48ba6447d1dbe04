"""What goes wrong with a pretrained model."""

import functools
from collections.abc import Callable


class PretrainedError(ValueError):
    """The source cannot be used. The message says what it is, and what would be right."""


def one_line(read: Callable) -> Callable:
    """Makes a reader, whose first argument is the source, refuse what it cannot read by a PretrainedError of one line.

    Parsers meet damaged bytes, and values that make no sense, with every exception there is.
    """

    @functools.wraps(read)
    def wrapped(source: str, *args):
        try:
            return read(source, *args)
        except OSError:  # not of the content; it names its file
            raise
        except PretrainedError as error:
            reason, cause = str(error), error
        except Exception as error:
            reason, cause = f"{source}: is damaged, or no such model: {type(error).__name__}: {error}", error
        raise PretrainedError(" ".join(reason.split())) from cause

    return wrapped
