# A file of more than 4 GiB, mostly hole: its data lies where it was written, the holes take no space.
python3 - <<'PYTHON'
import os
GIB = 1 << 30
fd = os.open("sparse", os.O_RDWR | os.O_CREAT)
places = [0, GIB - 3, 4 * GIB - 2, 4 * GIB + 105, 5 * GIB + 123457, 9 * GIB]
for at in places:
    os.pwrite(fd, b"data at %d" % at, at)
os.fsync(fd)
def check(fd):
    assert os.fstat(fd).st_size == 9 * GIB + len(b"data at %d" % (9 * GIB))
    assert os.fstat(fd).st_blocks * 512 < 8 << 20, os.fstat(fd).st_blocks
    for at in places:
        text = b"data at %d" % at
        assert os.pread(fd, len(text), at) == text, at
    assert os.pread(fd, 4096, 3 * GIB) == bytes(4096)
    assert os.pread(fd, 20, 4 * GIB - 22) == bytes(20)
    at, found = 0, []
    while True:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            break
        end = os.lseek(fd, at, os.SEEK_HOLE)
        found.append((at, end))
        at = end
    assert all(any(a <= p < e for a, e in found) for p in places), found
    assert sum(e - a for a, e in found) < 8 << 20, found
check(fd)
os.ftruncate(fd, 4 * GIB + 1)
assert os.fstat(fd).st_size == 4 * GIB + 1
os.ftruncate(fd, 9 * GIB)
assert os.pread(fd, 100, 4 * GIB - 50) == bytes(48) + b"dat" + bytes(49), os.pread(fd, 100, 4 * GIB - 50)
assert os.pread(fd, 100, 5 * GIB + 123457) == bytes(100)
PYTHON
