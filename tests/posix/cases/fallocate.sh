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
PYTHON
