"""For cases: act as a user who may do nothing special."""
import os

NOBODY = 65534


def become_nobody(directory):
    """This process goes to the directory, the way to which may be closed to others, and is root no more."""
    os.chdir(directory)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
