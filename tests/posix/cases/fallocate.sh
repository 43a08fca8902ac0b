# Space is allocated, holes are punched and ranges zeroed where asked, and nowhere else.
python3 - <<'PYTHON'
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
KEEP_SIZE, PUNCH, ZERO = 1, 2, 16
def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")
fd = os.open("f", os.O_RDWR | os.O_CREAT)
data = bytearray(os.urandom(3 << 20))
os.write(fd, data)
for mode, at, length in ((PUNCH | KEEP_SIZE, 5000, 100_000), (ZERO, 1 << 20, 77), (ZERO | KEEP_SIZE, (3 << 20) - 10, 5000), (PUNCH | KEEP_SIZE, 2 << 20, 1 << 19)):
    fallocate(fd, mode, at, length)
    end = min(at + length, len(data))
    data[at:end] = bytes(end - at)
    assert os.pread(fd, len(data) + 1, 0) == bytes(data)
fallocate(fd, 0, 5 << 20, 1 << 20)
assert os.fstat(fd).st_size == 6 << 20
assert os.pread(fd, 1 << 20, 5 << 20) == bytes(1 << 20)
fallocate(fd, KEEP_SIZE, 8 << 20, 4096)
assert os.fstat(fd).st_size == 6 << 20
os.fsync(fd)
assert os.pread(fd, len(data), 0) == bytes(data)
# Neither what there is no room for nor what is not there costs anybody's time.
import errno, time
begun = time.monotonic()
for mode in (0, KEEP_SIZE, ZERO):
    try:
        fallocate(fd, mode, 0, 1 << 50)
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
    else:
        raise AssertionError("a PiB is taken")
os.pwrite(fd, b"far away", 7 << 40)
size = os.fstat(fd).st_size
for mode in (PUNCH | KEEP_SIZE, ZERO | KEEP_SIZE):
    fallocate(fd, mode, 0, 1 << 57)
assert os.fstat(fd).st_size == size
assert os.pread(fd, 100, 7 << 40) == bytes(8)
assert os.pread(fd, 4 << 20, 0) == bytes(4 << 20)
os.ftruncate(fd, 0)
assert time.monotonic() - begun < 20, time.monotonic() - begun
PYTHON
