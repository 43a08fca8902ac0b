# Setuid, setgid and capabilities do not outlive a change of content by others, and every mount sees that at once.
[ "$(id -u)" = 0 ] || exit 0
PYTHONPATH=$ROOT/tests/posix PYTHONDONTWRITEBYTECODE=1 python3 - <<'PYTHON'
import ctypes, os
from nobody import become_nobody
libc = ctypes.CDLL(None, use_errno=True)
# cap_net_raw, permitted and effective (struct vfs_cap_data, revision 2).
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")

def as_nobody(side, work):
    child = os.fork()
    if child == 0:
        become_nobody(side)
        work()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")

def write(path):
    fd = os.open(path, os.O_WRONLY)
    os.write(fd, b"new")
    os.close(fd)

def allocate(mode):
    def work(path):
        fd = os.open(path, os.O_WRONLY)
        fallocate(fd, mode, 0, 4096)
        os.close(fd)
    return work

sides = [os.environ["WORK"] + "/", os.environ["OTHER"] + "/"]
works = {"write": write, "truncate": lambda path: os.truncate(path, 3), "allocate": allocate(0), "punch": allocate(3), "zero": allocate(16)}
for side in sides:
    for name, work in works.items():
        path = side + name
        with open(path, "w") as file:
            file.write("content")
        os.chmod(path, 0o6777)
        work(path)
        assert os.stat(path).st_mode & 0o7777 == 0o6777, (name, "root keeps them")
        for each in sides:
            os.stat(each + name)
        as_nobody(side, lambda: work(name))
        for each in sides:
            assert os.stat(each + name).st_mode & 0o7777 == 0o777, (name, oct(os.stat(each + name).st_mode))
        for each in sides:
            os.setxattr(path, "security.capability", CAPABILITY)
            assert os.getxattr(each + name, "security.capability")
            work(each + name)
            for look in sides:
                assert "security.capability" not in os.listxattr(look + name), (name, each, look)
        os.unlink(path)
PYTHON
