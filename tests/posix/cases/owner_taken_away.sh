# Whose file was taken away by another mount can change it no more, whatever his mount still believes.
[ "$(id -u)" = 0 ] || exit 0
PYTHONPATH=$ROOT/tests/posix PYTHONDONTWRITEBYTECODE=1 python3 - <<'PYTHON'
import os
from nobody import NOBODY, become_nobody

def refused(work):
    try:
        work()
    except PermissionError:
        return
    raise AssertionError("allowed")

sides = [os.environ["WORK"] + "/", os.environ["OTHER"] + "/"]
for round in range(6):
    mine, his = sides[::1 if round % 2 else -1]
    name = "f%d" % round
    with open(mine + name, "w") as file:
        file.write("content")
    os.chown(mine + name, NOBODY, NOBODY)
    (from_root, to_child), (from_child, to_root) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        become_nobody(his)
        file = os.open(name, os.O_RDWR)
        os.fchmod(file, 0o640)
        os.write(to_root, b".")
        os.read(from_root, 1)
        for work in (
            lambda: os.fchmod(file, 0o6777),
            lambda: os.chmod(name, 0o4777),
            lambda: os.fchown(file, NOBODY, NOBODY),
            lambda: os.utime(name, (1, 1)),
        ):
            refused(work)
        os._exit(0)
    os.read(from_child, 1)
    assert os.stat(mine + name).st_mode & 0o7777 == 0o640
    os.chown(mine + name, 0, 0)
    os.chmod(mine + name, 0o600)
    os.write(to_child, b".")
    assert os.waitpid(child, 0)[1] == 0
    for side in sides:
        found = os.stat(side + name)
        assert (found.st_mode & 0o7777, found.st_uid, found.st_mtime > 1) == (0o600, 0, True), found
PYTHON
