# Who loses the race to create a file gets the one that is there only if its permissions allow it.
[ "$(id -u)" = 0 ] || exit 0
mkdir open && chmod 777 open
PYTHONPATH=$ROOT/tests/posix PYTHONDONTWRITEBYTECODE=1 python3 - <<'PYTHON'
import os
from nobody import become_nobody
ROUNDS = 1500
mine, theirs = os.environ["WORK"] + "/open/", os.environ["OTHER"] + "/open/"
ready_read, ready_write = os.pipe()
go_read, go_write = os.pipe()
child = os.fork()
if child == 0:
    become_nobody(theirs)
    wrong = denied = 0
    for round in range(ROUNDS):
        os.write(ready_write, b"r")
        os.read(go_read, 1)
        try:
            fd = os.open("f%d" % round, os.O_RDWR | os.O_CREAT, 0o600)
        except PermissionError:
            denied += 1
            continue
        wrong += os.fstat(fd).st_uid == 0
        os.close(fd)
    print("%d wrong, %d denied of %d" % (wrong, denied, ROUNDS), flush=True)
    os._exit(1 if wrong or denied == ROUNDS else 0)
for round in range(ROUNDS):
    os.read(ready_read, 1)
    os.write(go_write, b"g")
    try:
        os.close(os.open(mine + "f%d" % round, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        pass
status = os.waitpid(child, 0)[1]
assert status == 0, "a file of root was opened without permission"
PYTHON
# Those who may, share it.
python3 - <<'PYTHON'
import os
places = [os.environ[where] + "/open/shared%d" for where in ("WORK", "OTHER")]
children = []
for place in places:
    child = os.fork()
    if child == 0:
        for round in range(300):
            os.close(os.open(place % round, os.O_RDWR | os.O_CREAT, 0o666))
        os._exit(0)
    children.append(child)
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
assert all(os.path.exists(places[0] % round) for round in range(300))
PYTHON
