# Lines appended by two processes of one mount, and by two of another, are all there, whole, in order: also
# across the end of a range.
append() {
    python3 - "$@" <<'PYTHON'
import os, sys
LINES, WIDTH, START = map(int, sys.argv[1:])
paths = [os.environ["WORK"], os.environ["OTHER"]]
with open(paths[0] + "/log", "wb") as log:
    log.truncate(START)
children = []
for number in range(4):
    child = os.fork()
    if child == 0:
        fd = os.open(paths[number % 2] + "/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        for line in range(LINES):
            text = b"%d:%05d:" % (number, line)
            assert os.write(fd, text.ljust(WIDTH - 1, b"abcd"[number:number + 1]) + b"\n") == WIDTH
        os._exit(0)
    children.append(child)
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
for path in paths:
    with open(path + "/log", "rb") as log:
        log.seek(START)
        data = log.read()
    assert len(data) == 4 * LINES * WIDTH, len(data)
    lines = data.split(b"\n")[:-1]
    assert all(len(line) == WIDTH - 1 and set(line[8:]) == {b"abcd"[int(line[:1])]} for line in lines)
    for number in range(4):
        mine = [int(line[2:7]) for line in lines if line[:1] == b"%d" % number]
        assert mine == list(range(LINES)), (path, number)
PYTHON
}
append 400 200 0
for round in 1 2 3; do append 100 4000 $(((64 << 20) - 160000 - 1234)); done
