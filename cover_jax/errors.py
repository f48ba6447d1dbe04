"""How a process ends: exit codes for scripts (launch/lib.sh knows them too), and the error of a wrong config."""

from data_pipelines import files
from data_pipelines.command_line import CONFIG, DONE, FAILED, INTERRUPTED  # noqa: F401 - the codes of every command

PREEMPTED = 42  # SIGTERM: saved; the same command continues
BAD_DATA = 44  # more undecodable examples than the config allows
DIVERGED = 45  # loss or gradients not finite
DAMAGED = 46  # no sound checkpoint is left, `verify` found damage, or a file of a workdir is damaged
LOST_PEER = 47  # another host ended: the same command continues
HUNG = 48  # a phase took longer than its timeout: the same command continues
NOT_SAVED = 49  # the last checkpoint could not be written
IN_USE = 50  # another job holds the workdir

START_AGAIN = (PREEMPTED, LOST_PEER, HUNG)


class ConfigError(ValueError):
    """The config cannot be run. The message has one line per wrong key."""

    exit_code = CONFIG


class DamagedStateError(files.DamagedFileError):
    """A file of a workdir is not what a run wrote, and cannot be made anew here. The message names it."""

    exit_code = DAMAGED
