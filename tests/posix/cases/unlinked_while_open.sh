# A file unlinked while open is read and written until it is closed, on a server that restarts meanwhile.
python3 - <<'PYTHON'
import os, subprocess
path = os.environ["OTHER"] + "/gone"       # that mount stays while the server restarts
file = open(path, "w+b", buffering=0)
file.write(b"before" * 1000)
os.fsync(file.fileno())
os.unlink(path)
server = os.environ["SERVER"]
os.chdir("/")
for how in (["restart"], ["kill"], ["start"]):
    subprocess.run([server] + how, check=True)
    if how == ["kill"]:
        continue
    assert os.fstat(file.fileno()).st_nlink == 0
    assert os.pread(file.fileno(), 6000, 0) == b"before" * 1000
    file.write(b"more")
    os.fsync(file.fileno())
assert os.pread(file.fileno(), 100, 6000) == b"moremore"
assert os.listdir(os.environ["OTHER"]) == []
PYTHON
