# A small store is filled, over and over, with large and small files: the writer is told ENOSPC, what was
# acknowledged is right, deleting works and gives the space back.
export STAGE=$STAGE/small STORE_SIZE=512MiB
mkdir -p "$STAGE"
trap '"$SERVER" abandon' EXIT
"$SERVER" start
python3 - "$STAGE/mnt" "${ROUNDS:-10}" <<'PYTHON'
import errno, os, random, sys, time
root, rounds = sys.argv[1], int(sys.argv[2])
rng = random.Random(1)
def free():
    volume = os.statvfs(root)
    return volume.f_bavail * volume.f_frsize
def content(name, size):
    return (name.encode() * (size // len(name) + 1))[:size]
def write(name, size):
    """True once it is whole and synced; False where the volume is full, the rest removed."""
    try:
        fd = os.open(os.path.join(root, name), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
        return False
    told, data, at = None, content(name, size), 0
    try:
        while at < size:
            at += os.write(fd, data[at:at + (1 << 20)])
        os.fsync(fd)
    except OSError as error:
        told = error.errno
    try:
        os.close(fd)
    except OSError as error:
        told = told or error.errno
    assert told in (None, errno.ENOSPC), os.strerror(told)
    if told:
        os.unlink(os.path.join(root, name))
    return not told
first = free()
for round in range(rounds):
    sizes = {"large": [32 << 20], "small": [4096, 20_000, 70_000], "mixed": [1 << 20, 5000, 8 << 20, 300_000]}
    kind = ["large", "small", "mixed"][round % 3]
    kept, refused, began = {}, 0, time.monotonic()
    while refused < 3:
        name, size = "%s-%d-%d" % (kind, round, len(kept) + refused), rng.choice(sizes[kind])
        if write(name, size):
            kept[name] = size
        else:
            refused += 1
    used = sum(kept.values())
    print("round %d: %s, %d files, %d MiB, statfs says %d of %d MiB free, %.1f s" % (round, kind, len(kept), used >> 20, free() >> 20, first >> 20, time.monotonic() - began), flush=True)
    assert kind == "small" or used > first * 6 // 10, "full far too early"
    for name in rng.sample(sorted(kept), min(len(kept), 200)):
        assert open(os.path.join(root, name), "rb").read() == content(name, kept[name]), name
    assert sorted(os.listdir(root)) == sorted(kept)
    for name in kept:
        os.unlink(os.path.join(root, name))
    end = time.monotonic() + 30
    while free() < first * 9 // 10:
        assert time.monotonic() < end, "space does not come back: %d of %d MiB" % (free() >> 20, first >> 20)
        time.sleep(0.1)
PYTHON
"$SERVER" restart
[ -z "$(ls -A "$STAGE/mnt")" ]
"$SERVER" stop
