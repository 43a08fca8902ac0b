# Renames over files and directories, across directories, exchanged and without replacing.
python3 - <<'PYTHON'
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE = 1, 2
def rename2(a, b, flags):
    if libc.renameat2(-100, a.encode(), -100, b.encode(), flags):
        return ctypes.get_errno()
    return 0
def put(name, text):
    open(name, "w").write(text)
def get(name):
    return open(name).read()
put("a", "1"); put("b", "2")
assert rename2("a", "b", EXCHANGE) == 0 and (get("a"), get("b")) == ("2", "1")
assert rename2("a", "b", NOREPLACE) == errno.EEXIST
assert rename2("a", "c", NOREPLACE) == 0 and get("c") == "2"
os.makedirs("d/e/f"); os.mkdir("g"); put("d/e/x", "3")
assert rename2("c", "d", EXCHANGE) == 0 and get("d") == "2" and get("c/e/x") == "3"
assert rename2("c", "d", EXCHANGE) == 0
os.rename("d/e", "g")                      # over an empty directory
assert get("g/x") == "3" and os.listdir("d") == []
assert os.stat("d").st_nlink == 2 and os.stat("g").st_nlink == 3
for a, b, error in (("g", "g/f/h", errno.EINVAL), ("d", "c", errno.ENOTDIR), ("c", "d", errno.EISDIR), ("d", "g", errno.ENOTEMPTY)):
    try:
        os.rename(a, b)
        raise AssertionError((a, b))
    except OSError as e:
        assert e.errno == error, (a, b, e)
os.makedirs("new/x"); os.mkdir("old")
old = os.open("old", os.O_DIRECTORY); os.rename("new", "old")
assert os.fstat(old).st_nlink == 0 and os.listdir(old) == [] and os.listdir("old") == ["x"]
kept = open("b"); os.rename("c", "b")
assert kept.read() == "1" and get("b") == "2" and os.fstat(kept.fileno()).st_nlink == 0
PYTHON
