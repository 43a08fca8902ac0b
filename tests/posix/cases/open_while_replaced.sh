# A name that is there all the time, because another file takes it by rename, can be opened and read; a name
# that others make and remove can be opened with O_CREAT. On both mounts, whoever changes it.
python3 - <<'PYTHON'
import os, time
sides = [os.environ["WORK"] + "/", os.environ["OTHER"] + "/"]
end = time.monotonic() + 6
def replace(side):
    with open(side + "new", "wb") as file:
        file.write(b"x" * 100)
    os.rename(side + "new", side + "target")
def read(side):
    with open(side + "target", "rb") as file:
        assert len(file.read()) == 100
def look(side):
    os.stat(side + "target")
def make(side):
    with open(side + "lock", "wb") as file:
        file.write(b"x")
def make_and_remove(side):
    os.close(os.open(side + "lock", os.O_CREAT | os.O_RDWR, 0o644))
    try:
        os.unlink(side + "lock")
    except FileNotFoundError:
        pass
replace(sides[0])
children = []
for work, where in [(replace, 0), (read, 0), (read, 1), (look, 1), (make_and_remove, 0), (make_and_remove, 1), (make, 0), (make, 1)]:
    child = os.fork()
    if child == 0:
        times = failed = 0
        while time.monotonic() < end:
            times += 1
            try:
                work(sides[where])
            except OSError as error:
                failed += 1
                last = error
        print(work.__name__, where, times, "times,", failed, "failed", last if failed else "", flush=True)
        os._exit(1 if failed else 0)
    children.append(child)
statuses = [os.waitpid(child, 0)[1] for child in children]
assert not any(statuses), statuses
PYTHON
