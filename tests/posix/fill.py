#!/usr/bin/env python3
"""Fills a volume and empties it again, over and over: fill.py ROOT KIND[:WRITERS],KIND... ROUNDS WRITERS

The writer is told ENOSPC and nothing else, what was acknowledged is right, deleting works and gives the
space back. Each writer has a directory of its own."""
import errno, os, random, re, sys, threading, time, urllib.request

SIZES = {
    "large": [32 << 20],
    "small": [4096, 20_000, 70_000],
    "mixed": [1 << 20, 5000, 8 << 20, 300_000],
    "tiny": [0, 1, 100, 1000],
}
# Of the space free at first, what must be full before a writer is refused: with one writer.
FULL_SHARE = {"large": 0.6, "mixed": 0.6}
# What may be missing when everything is deleted: each of the 256 shards may keep three tables that are not merged yet and
# one that was, of 12 KiB and more each.
TABLES_BYTES_MAX = 20 << 20


def free():
    volume = os.statvfs(root)
    return volume.f_bavail * volume.f_frsize


def live_data():
    """Bytes of file data that the server at METRICS counts as live, to the unit; 0 where it is not asked. What the cleaner
    moved is not told from tables that it moved."""
    if not os.environ.get("METRICS"):
        return 0
    text = urllib.request.urlopen(os.environ["METRICS"], timeout=30).read().decode()
    of_data = re.findall(r'^cfs_class_live_bytes\{.*class="(?:hot|cold)".*\} (\d+)$', text, re.M)
    assert of_data, text
    return sum(map(int, of_data))


def content(name, size):
    return (name.encode() * (size // len(name) + 1))[:size]


def write(path, name, size, sync=True):
    """True once it is whole, closed and synced if wanted; False where the volume is full, the rest removed."""
    try:
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
        return False
    told, data, at = None, content(name, size), 0
    try:
        while at < size:
            at += os.write(fd, data[at : at + (1 << 20)])
        if size and sync:
            os.fsync(fd)
    except OSError as error:
        told = error.errno
    try:
        os.close(fd)
    except OSError as error:
        told = told or error.errno
    assert told in (None, errno.ENOSPC), os.strerror(told)
    if told:
        os.unlink(path)
    return not told


def fill(kind, folder, seed, kept):
    rng, refused = random.Random(seed), 0
    while refused < 3:
        name, size = "%s-%d-%d" % (kind, seed, len(kept) + refused), rng.choice(SIZES[kind])
        if write(os.path.join(folder, name), name, size):
            kept[name] = size
        else:
            refused += 1


def everywhere(work):
    """Runs work(number) for each writer at the same time; the first failure ends the program."""
    failures = []

    def guarded(number):
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


if __name__ == "__main__":
    root, kinds, rounds = sys.argv[1], sys.argv[2].split(","), int(sys.argv[3])
    first = free()
    for round in range(rounds):
        kind, _, of_kind = kinds[round % len(kinds)].partition(":")
        writers, began = int(of_kind or sys.argv[4]), time.monotonic()
        folders = [os.path.join(root, "writer-%d" % n) for n in range(writers)]
        for folder in folders:
            os.mkdir(folder)
        kept = [{} for _ in folders]
        everywhere(lambda n: fill(kind, folders[n], round * writers + n, kept[n]))
        files, used = sum(map(len, kept)), sum(sum(k.values()) for k in kept)
        print("round %d: %s, %d files, %d MiB, statfs says %d of %d MiB free, %.1f s" % (round, kind, files, used >> 20, free() >> 20, first >> 20, time.monotonic() - began), flush=True)
        assert writers > 1 or used > first * FULL_SHARE.get(kind, 0), "full far too early"
        for folder, names in zip(folders, kept):
            for name in random.Random(1).sample(sorted(names), min(len(names), 200)):
                assert open(os.path.join(folder, name), "rb").read() == content(name, names[name]), name
            assert sorted(os.listdir(folder)) == sorted(names)
        everywhere(lambda n: [os.unlink(os.path.join(folders[n], name)) for name in kept[n]])
        for folder in folders:
            os.rmdir(folder)
        end = time.monotonic() + 60
        while free() < first - TABLES_BYTES_MAX or live_data() > 0:
            told = free() >> 10, first >> 10, live_data()
            assert time.monotonic() < end, "space does not come back: %d of %d KiB, %d bytes of data are live" % told
            time.sleep(0.1)
        print("round %d: emptied, %d of %d KiB free" % (round, free() >> 10, first >> 10), flush=True)
