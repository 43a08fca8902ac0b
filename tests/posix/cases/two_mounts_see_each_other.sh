# What one mount has completed the other sees at once: data, size, names, absence, attributes, listings.
python3 - <<'PYTHON'
import os
pairs = [(os.environ["WORK"] + "/", os.environ["OTHER"] + "/")]
pairs.append(pairs[0][::-1])
for round in range(150):
    a, b = pairs[round % 2]
    name = "f%d" % round
    assert not os.path.exists(b + name)
    with open(a + name, "x") as file:
        file.write("one")
    assert os.stat(b + name).st_size == 3
    assert open(b + name).read() == "one"
    with open(b + name, "a") as file:
        file.write("two")
    assert open(a + name).read() == "onetwo"
    with open(a + name, "r+") as file:
        file.write("ONE")
        file.flush()
        assert open(b + name).read() == "ONEtwo"
    os.chmod(a + name, 0o600 + round % 8)
    os.utime(b + name, (round, round + 1))
    for side in (a, b):
        assert os.stat(side + name).st_mode & 0o777 == 0o600 + round % 8
        assert os.stat(side + name).st_mtime == round + 1
    assert os.listdir(b) == [name]
    os.rename(b + name, b + name + ".new")
    assert not os.path.exists(a + name) and os.path.exists(a + name + ".new")
    os.truncate(a + name + ".new", 2)
    assert open(b + name + ".new").read() == "ON"
    os.link(b + name + ".new", b + "second")
    assert os.stat(a + name + ".new").st_nlink == 2
    os.unlink(a + name + ".new")
    assert os.listdir(b) == ["second"] and os.stat(b + "second").st_nlink == 1
    os.setxattr(a + "second", "user.k", b"v")
    assert os.getxattr(b + "second", "user.k") == b"v"
    os.mkdir(a + "d")
    os.mkdir(b + "d/e")
    assert os.stat(a + "d").st_nlink == 3 and os.listdir(a + "d") == ["e"]
    os.rename(a + "d/e", a + "e")
    assert os.listdir(b + "d") == [] and sorted(os.listdir(b)) == ["d", "e", "second"]
    os.rmdir(b + "d")
    os.rmdir(a + "e")
    reader = open(b + "second", "rb")
    os.unlink(a + "second")
    assert reader.read() == b"ON" and os.listdir(b) == []
    reader.close()

# A mount that has renamed a file does not keep the name when another renames it on, exchanges it or removes it.
import ctypes, time
libc = ctypes.CDLL(None, use_errno=True)
def exchange(x, y):
    assert libc.renameat2(-100, x.encode(), -100, y.encode(), 2) == 0, ctypes.get_errno()
def put(path, text):
    with open(path, "w") as file:
        file.write(text)
def get(path):
    with open(path) as file:
        return file.read()
for round in range(20):
    a, b = pairs[round % 2]
    put(a + "log", "one")
    os.rename(b + "log", b + "log.1")
    os.rename(a + "log.1", a + "log.2")
    assert not os.path.exists(b + "log.1"), round
    assert get(b + "log.2") == "one"
    put(a + "other", "two")
    exchange(b + "log.2", b + "other")
    exchange(a + "log.2", a + "other")
    assert (get(b + "log.2"), get(b + "other")) == ("one", "two"), round
    os.rename(b + "other", b + "third")
    os.unlink(a + "third")
    assert not os.path.exists(b + "third"), round
    os.mkdir(a + "dir")
    os.rename(b + "log.2", b + "dir/log")
    os.rename(a + "dir/log", a + "dir/log.1")
    assert not os.path.exists(b + "dir/log") and get(b + "dir/log.1") == "one", round
    os.unlink(a + "dir/log.1")
    os.rmdir(b + "dir")
PYTHON
