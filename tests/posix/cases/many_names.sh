# 100,000 files in one directory, more than a mount knows inodes (65,536): all are listed once, and found; twenty thousand of
# them go away while it is read. The store goes with the rest: to remove them one by one takes minutes.
export STAGE=$STAGE/many
mkdir -p "$STAGE"
trap '"$SERVER" abandon' EXIT
"$SERVER" start
cd "$STAGE/mnt"
python3 - <<'PYTHON'
import errno, os, stat
COUNT = 100_000
os.mkdir("many")
names = ["file-%06d" % i for i in range(COUNT)]
# The kernel makes and removes one name of a directory at a time: more writers would only wait for each other.
for number, name in enumerate(names):
    if number % 10:
        os.mknod("many/" + name, stat.S_IFREG | 0o644)
    else:
        os.close(os.open("many/" + name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
listed = os.listdir("many")
assert len(listed) == COUNT and sorted(listed) == names
for name in names[::997]:
    assert os.stat("many/" + name).st_size == 0
assert not os.path.exists("many/file-%06d" % COUNT)
# Of the first forty thousand every second one goes while the directory is being read: what stays is still listed once.
seen = []
with os.scandir("many") as entries:
    for entry in entries:
        seen.append(entry.name)
        if len(seen) <= 40_000 and int(entry.name[5:]) % 2:
            os.unlink(entry.path)
assert sorted(seen) == names
gone = {name for name in seen[:40_000] if int(name[5:]) % 2}
assert sorted(os.listdir("many")) == [name for name in names if name not in gone]
try:
    os.rmdir("many")
except OSError as error:
    assert error.errno == errno.ENOTEMPTY, error
else:
    raise AssertionError("it was not empty")
PYTHON
cd "$SCRATCH"
"$SERVER" stop
