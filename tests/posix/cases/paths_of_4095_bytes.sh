# A path of 4,095 bytes can be made, opened, listed and removed.
python3 - <<'PYTHON'
import os, shutil
path, step = os.getcwd(), "d" * 200
while len(path) + 1 + len(step) < 4095 - 255:
    path += "/" + step
    os.mkdir(path)
while len(path) < 4095:
    name = "f" * min(4095 - len(path) - 1, 200)
    if 4095 - len(path) - 1 - len(name) in range(1, 2):
        name = name[:-1]
    path += "/" + name
    if len(path) < 4095:
        os.mkdir(path)
assert len(path) == 4095
with open(path, "x") as file:
    file.write("deep")
assert open(path).read() == "deep"
assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]
os.rename(path, "up")
assert open("up").read() == "deep"
shutil.rmtree(step)
assert os.listdir() == ["up"]
PYTHON
