# A shared mapping is written and read by two processes, and reaches the file.
python3 - <<'PYTHON'
import mmap, os
SIZE = 3 * 1024 * 1024 + 17
with open("mapped", "w+b") as file:
    file.truncate(SIZE)
    with mmap.mmap(file.fileno(), SIZE) as memory:
        child = os.fork()
        if child == 0:
            for at in range(1, SIZE, 8191):
                memory[at] = at % 251
            memory.flush()
            os._exit(0)
        for at in range(0, SIZE, 8191):
            memory[at] = 255
        assert os.waitpid(child, 0)[1] == 0
        assert all(memory[at] == at % 251 for at in range(1, SIZE, 8191))
        memory.flush()
    os.fsync(file.fileno())
data = open("mapped", "rb").read()
assert len(data) == SIZE
assert all(data[at] == 255 for at in range(0, SIZE, 8191))
assert all(data[at] == at % 251 for at in range(1, SIZE, 8191))
assert data.count(0) > SIZE - 900
PYTHON
cp mapped copy
cd /
"$SERVER" restart
cd "$WORK"
cmp mapped copy
