# What one mount has renamed, truncated or written, the other shows at once while many of its processes look at the
# same names, attributes and pages: their answers cross the change.
python3 - <<'PYTHON'
import os, time
mine, other = os.environ["WORK"] + "/", os.environ["OTHER"] + "/"
READERS, SECONDS = 6, 10

def exists(path):
    try:
        os.stat(path)
        return True
    except FileNotFoundError:
        return False

def among_readers(look, change):
    """`change(number)` again and again, `look(reader, round)` in processes beside it."""
    end, readers = time.monotonic() + SECONDS, []
    for reader in range(READERS):
        pid = os.fork()
        if pid == 0:
            round = reader
            while time.monotonic() < end:
                look(reader, round)
                round += 1
            os._exit(0)
        readers.append(pid)
    number = 0
    while time.monotonic() < end:
        number += 1
        change(number)
        if number % 3 == 0:
            time.sleep(0.002)
    for pid in readers:
        assert os.waitpid(pid, 0)[1] == 0
    return number

for number in range(40):
    open(mine + "c%d" % number, "w").close()
with open(mine + "a", "wb") as file:
    file.write(bytes(16 * 4096))

def look_up(reader, round):
    for name in ("a", "b", "c%d" % (round % 40), "z%d" % (round % 40)):
        exists(other + name)
def rename(number):
    old, new = ("a", "b") if number % 2 else ("b", "a")
    os.rename(mine + old, mine + new)
    seen = [exists(other + old), exists(other + new)]
    assert seen == [False, True], (number, seen)
print(among_readers(look_up, rename), "renames")
if exists(mine + "b"):
    os.rename(mine + "b", mine + "a")

def stat_or_read(reader, round):
    if reader % 2:
        os.stat(other + "a")
    else:
        file = os.open(other + "a", os.O_RDONLY)
        os.pread(file, 4096, 0)
        os.close(file)
def truncate(number):
    os.truncate(mine + "a", 65536 + number)
    size = os.stat(other + "a").st_size
    assert size == 65536 + number, (number, size)
print(among_readers(stat_or_read, truncate), "truncations")

reading, writing = os.open(other + "a", os.O_RDONLY), os.open(mine + "a", os.O_RDWR)
def read(reader, round):
    file = os.open(other + "a", os.O_RDONLY)
    for step in range(reader * 3 + 1):
        os.pread(file, 8, 4096 * ((round + step) % 16))
    os.close(file)
    if reader == 3:
        os.stat(other + "a")
def write(number):
    record, offset = b"%08d" % number, 4096 * (number % 16)
    os.pwrite(writing, record, offset)
    seen = os.pread(reading, 8, offset)
    assert seen == record, (number, seen)
print(among_readers(read, write), "writes")
PYTHON
