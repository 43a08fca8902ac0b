# Of two mounts that create one name with O_EXCL one wins; creates, renames and removals in one directory
# from both sides end in one state.
python3 - <<'PYTHON'
import os
sides = [os.environ["WORK"] + "/", os.environ["OTHER"] + "/"]
def both(work):
    children = []
    for number, side in enumerate(sides * 2):
        child = os.fork()
        if child == 0:
            os._exit(work(number, side))
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
def exclusive(number, side):
    won = 0
    for i in range(60):
        try:
            os.close(os.open(side + "x%d" % i, os.O_CREAT | os.O_EXCL))
            won += 1
        except FileExistsError:
            pass
    return won
assert sum(both(exclusive)) == 60
def churn(number, side):
    for i in range(100):
        name = side + "c%d-%d" % (number, i)
        open(name, "w").write(name)
        os.rename(name, name + "r")
        if i % 2:
            os.unlink(name + "r")
    return 0
assert both(churn) == [0, 0, 0, 0]
expected = sorted(["x%d" % i for i in range(60)] + ["c%d-%dr" % (n, i) for n in range(4) for i in range(0, 100, 2)])
for side in sides:
    assert sorted(os.listdir(side)) == expected
def steal(number, side):
    won = 0
    for i in range(60):
        try:
            os.rename(side + "x%d" % i, side + "won-%d-%d" % (number, i))
            won += 1
        except FileNotFoundError:
            pass
    return won
assert sum(both(steal)) == 60
assert len([n for n in os.listdir(sides[0]) if n.startswith("won")]) == 60
PYTHON
