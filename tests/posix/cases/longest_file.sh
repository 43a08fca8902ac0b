# A file ends at 2^58 bytes: whatever lies beyond is refused at the call, by one request, and harms nobody.
python3 - <<'PYTHON'
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
MAX = 1 << 58

def refused(call, *arguments):
    try:
        call(*arguments)
    except OSError as error:
        assert error.errno == errno.EFBIG, (arguments, error)
    else:
        raise AssertionError("%r is taken" % (arguments,))

def fallocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")

for flags in (0, os.O_SYNC, os.O_DIRECT):
    fd = os.open("f", os.O_RDWR | os.O_CREAT | flags)
    for data in (b"abc", bytes(128 << 10)):
        for offset in (MAX - 1, MAX, MAX + 1, 1 << 60, (1 << 62)):
            if flags & os.O_DIRECT:
                continue
            if offset < MAX:
                # The kernel may cut it in two where the page ends: what there is room for is written.
                try:
                    assert os.pwrite(fd, data, offset) == MAX - offset
                except OSError as error:
                    assert error.errno == errno.EFBIG
                os.ftruncate(fd, 0)
                continue
            refused(os.pwrite, fd, data, offset)
    for offset in (MAX - 1, MAX + 1, 1 << 60):
        for mode in (0, 1, 3, 16):
            refused(fallocate, fd, mode, offset, 1 << 20)
        refused(os.ftruncate, fd, max(offset, MAX + 1))
        try:
            os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            assert error.errno == errno.ENXIO
    assert os.fstat(fd).st_size == 0 and os.fstat(fd).st_blocks == 0
    os.close(fd)
fd = os.open("f", os.O_RDWR)
os.ftruncate(fd, MAX)
assert os.pwrite(fd, b"end", MAX - 3) == 3
os.fsync(fd)
assert os.pread(fd, 100, MAX - 5) == b"\0\0end"
refused(os.pwrite, fd, b"12", MAX)
assert os.pread(fd, 100, MAX - 5) == b"\0\0end"
os.ftruncate(fd, 0)
PYTHON
