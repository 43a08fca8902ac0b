# A time of change is that of the change: it does not move when what was written reaches the server.
python3 - <<'PYTHON'
import os, time
times = lambda path: (os.stat(path).st_mtime_ns, os.stat(path).st_ctime_ns)
here, there = os.environ["WORK"] + "/", os.environ["OTHER"] + "/"
for round in range(20):
    name = "f%d" % round
    fd = os.open(here + name, os.O_RDWR | os.O_CREAT)
    before = time.time_ns()
    os.write(fd, b"content")
    after = time.time_ns()
    told = times(here + name)
    assert all(before - 20_000_000 <= each <= after for each in told), (before, told, after)
    if round % 4 == 0:
        time.sleep(0.6)
    elif round % 4 == 1:
        os.fsync(fd)
    elif round % 4 == 2:
        os.close(fd)
        time.sleep(0.3)
        fd = os.open(here + name, os.O_RDWR)
    assert times(there + name) == told, (round, told, times(there + name))
    assert times(here + name) == told, (round, told, times(here + name))
    # A time that is set stays, whatever was written before; what is written after it counts.
    os.write(fd, b"more")
    wanted = (1_000_000_007, [2_000_000_009, time.time_ns() + (1 << 50)][round % 2])
    os.utime(here + name, ns=wanted)
    os.fsync(fd)
    for side in (here, there):
        assert (os.stat(side + name).st_atime_ns, os.stat(side + name).st_mtime_ns) == wanted
    os.write(fd, b"again")
    told = times(here + name)
    assert abs(told[0] - time.time_ns()) < 5_000_000_000, told
    os.fsync(fd)
    assert times(here + name) == told == times(there + name), (told, times(here + name), times(there + name))
    os.close(fd)
PYTHON
