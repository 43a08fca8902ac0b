# 100,000 files in one directory, more than a mount knows inodes (65,536): all are listed once, found, and go away again.
python3 - <<'PYTHON'
import os, stat
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
# Every second one goes while the directory is being read: what stays is still listed once.
seen = []
with os.scandir("many") as entries:
    for entry in entries:
        seen.append(entry.name)
        if int(entry.name[5:]) % 2:
            os.unlink(entry.path)
assert sorted(seen) == names
assert sorted(os.listdir("many")) == names[::2]
for name in names[::2]:
    os.unlink("many/" + name)
os.rmdir("many")
PYTHON
