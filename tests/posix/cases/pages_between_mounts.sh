# What one mount has written the other's page cache never hides: not after a change of attributes, not from
# a mapping that is read all the time.
python3 - <<'PYTHON'
import mmap, os, struct, threading, time
mine, other = os.environ["WORK"] + "/file", os.environ["OTHER"] + "/file"
changes = {
    "chmod": lambda g: os.fchmod(g, 0o640),
    "chown": lambda g: os.fchown(g, 0, 5),
    "utime": lambda g: os.utime(g),
    "truncate": lambda g: os.ftruncate(g, 400000),
}
for name, change in changes.items():
    f = os.open(mine, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.pwrite(f, b"A" * 400000, 0)
    os.fsync(f)
    g = os.open(other, os.O_RDWR)
    for _ in range(6):
        os.pwrite(f, b"1" * 4096, 8192)
        os.pwrite(g, b"0" * 4096, 8192)
    os.pwrite(f, b"1" * 4096, 8192)
    os.pwrite(g, b"2" * 40960, 0)
    os.pwrite(f, b"3" * 40960, 0)
    os.fsync(f)
    change(g)
    assert os.pread(g, 3, 8192) == b"333", (name, os.pread(g, 3, 8192))
    os.close(f)
    os.close(g)

ROUNDS = 3000
f = os.open(mine, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
os.pwrite(f, bytes(4096), 0)
os.fsync(f)
g = os.open(other, os.O_RDONLY)
seen = mmap.mmap(g, 4096, mmap.MAP_SHARED, mmap.PROT_READ)
value, over = (lambda: struct.unpack("<Q", seen[:8])[0]), threading.Event()
values = []
def poll():
    while not over.is_set():
        values.append(value())
        time.sleep(0.001)
poller = threading.Thread(target=poll)
poller.start()
for number in range(1, ROUNDS + 1):
    os.pwrite(f, struct.pack("<Q", number), 0)
    time.sleep(0.001)
os.fsync(f)
last, end = value(), time.monotonic() + 20
while value() != ROUNDS and time.monotonic() < end:
    time.sleep(0.01)
over.set()
poller.join()
# An old page that goes by itself is of a mount that got no CPU for longer than its lease; one that stays is forgotten.
assert last == ROUNDS, (last, "of", ROUNDS, "20 s later:", value(), "read:", struct.unpack("<Q", os.pread(g, 8, 0))[0])
assert values == sorted(values) and len(set(values)) > ROUNDS // 10, len(set(values))
PYTHON
# A directory's links and times are right at once.
mkdir made
sleep 0.05
mkdir made/inside
[ "$(stat -c '%h %Y %y %z' made)" = "$(stat -c '%h %Y %y %z' "$OTHER/made")" ]
[ "$(stat -c %h made)" = 3 ]
