"""How a process ends: exit codes for scripts (launch/lib.sh knows them too), and the error of a wrong config."""

DONE = 0
FAILED = 1  # by an error that has no code of its own; its traceback is printed
PREEMPTED = 42  # SIGTERM: saved; the same command goes on
CONFIG = 43  # a config, a flag or a path that cannot work: change it
BAD_DATA = 44  # more undecodable examples than the config allows
DIVERGED = 45  # loss or gradients not finite
DAMAGED = 46  # no sound checkpoint is left, or `verify` found damage
LOST_PEER = 47  # another host has gone: the same command goes on
HUNG = 48  # a phase took longer than its timeout: the same command goes on
NOT_SAVED = 49  # the last checkpoint could not be written
IN_USE = 50  # another job holds the workdir
INTERRUPTED = 130  # Ctrl-C, as shells have it: 128 + SIGINT

START_AGAIN = (PREEMPTED, LOST_PEER, HUNG)


class ConfigError(ValueError):
    """The config cannot be run. The message has one line for each key that is wrong."""

    exit_code = CONFIG
