# A mount whose server is killed waits for the next one: no operation fails, no written byte is lost.
python3 - <<'PYTHON'
import os, subprocess, threading
other, server = os.environ["OTHER"] + "/", os.environ["SERVER"]
os.chdir("/")
written, over = [], threading.Event()
def work():
    number = 0
    while not over.is_set():
        name = other + "w%d" % number
        with open(name, "xb") as file:
            file.write(name.encode() * 100)
            if number % 3 == 0:
                os.fsync(file.fileno())
        if number % 2:
            os.rename(name, name + "r")
            name += "r"
        written.append(name)
        number += 1
worker = threading.Thread(target=work)
worker.start()
for _ in range(3):
    at = len(written)
    while len(written) < at + 20:
        pass
    subprocess.run([server, "kill"], check=True)
    subprocess.run([server, "start"], check=True)
over.set()
worker.join(60)
assert not worker.is_alive()
print(len(written), "files")
work = os.environ["WORK"] + "/"
for name in written:
    assert open(work + os.path.basename(name), "rb").read() == name.removesuffix("r").encode() * 100, name
assert len(os.listdir(work)) == len(written)
PYTHON
