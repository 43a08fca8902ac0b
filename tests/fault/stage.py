"""What the tests play on: workers, a store with its server and mount. Knows nothing of what goes wrong."""

import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOAD = HERE / "load.py"
ANSWER_SECONDS = 180
START_SECONDS = 60


class Failure(Exception):
    """What the test found."""


class Worker:
    def __init__(self, number, seed):
        self.number, self.done = number, 0
        command = [sys.executable, str(LOAD), str(seed)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd="/")

    def tell(self, text):
        try:
            self.process.stdin.write(text + "\n")
        except BrokenPipeError:
            pass

    def answer(self):
        if not select.select([self.process.stdout], [], [], ANSWER_SECONDS)[0]:
            raise Failure(f"worker {self.number} hangs in:\n{kernel_stack(self.process.pid)}")
        line = self.process.stdout.readline()
        if not line or line.startswith("FAILED"):
            raise Failure(f"worker {self.number}: {line}{self.process.stdout.read()}")
        words = line.split()
        if words[0] == "worked":
            self.done += int(words[1])
        return words


class Stage:
    """The store, its server and mount."""

    def __init__(self, base, binary, size):
        self.base, self.binary, self.size = base, binary, size
        self.store, self.mount = base / "store", base / "mnt"
        self.mount.mkdir()
        self.address, self.port = "127.0.0.1", free_port()
        self.server = self.client = None
        self.kills = self.stops = 0
        self.begun = {}           # per log where the last process begins

    def spawn(self, name, *arguments):
        log = open(self.base / f"{name}.log", "ab")
        self.begun[name] = log.tell()
        return subprocess.Popen([self.binary, *map(str, arguments)], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)

    def start(self, kind, wait=True):
        places = [self.store, self.mount, "--size", self.size] if kind == "dev" else [self.store]
        addresses = ["--listen", f"{self.address}:{self.port}", "--http", f"{self.address}:{self.port + 16}"]
        self.server = self.spawn("server", kind, *places, *addresses)
        if wait:
            self.wait_ready("server", self.server)

    def words(self, name):
        """What the process that was started last has said."""
        log = self.base / f"{name}.log"
        return log.read_bytes()[self.begun[name]:].decode(errors="replace")

    def wait_ready(self, name, process):
        end = time.monotonic() + START_SECONDS
        while "\nready" not in "\n" + self.words(name):
            if process.poll() is not None or time.monotonic() > end:
                raise Failure(f"the {name} does not start (exit {process.poll()}):\n{self.words(name)}")
            time.sleep(0.02)

    def attach(self, *options):
        self.client = self.spawn("client", "mount", f"{self.address}:{self.port}", self.mount, "--foreground", *options)
        self.wait_ready("client", self.client)

    def detach(self):
        self.client.send_signal(signal.SIGTERM)
        if self.client.wait(60) != 0:
            raise Failure(f"the mount ended with {self.client.returncode}")
        self.client = None

    def kill_client(self):
        self.client.kill()
        self.client.wait(60)
        self.client = None

    def kill(self):
        """Kills the server and looks at the store."""
        if self.server.poll() is not None:
            raise Failure(f"the server ended by itself: {self.server.returncode}")
        self.server.kill()
        self.server.wait(60)
        self.kills += 1
        self.check()

    def stop(self):
        self.server.send_signal(signal.SIGTERM)
        if self.server.wait(60) != 0:
            raise Failure(f"the server stopped with {self.server.returncode}")
        self.stops += 1
        self.check()

    def run_fsck(self, *options):
        command = [self.binary, "fsck", *options, str(self.store)]
        return subprocess.run(command, capture_output=True, text=True, timeout=600)

    def check(self):
        """`cfs fsck` on the store as it lies there."""
        done = self.run_fsck()
        if done.returncode != 0:
            raise Failure(f"fsck ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")

    def abandon(self):
        for process in (self.client, self.server):
            if process and process.poll() is None:
                process.kill()
                process.wait()
        # By force first, which answers whoever waits for the mount.
        for how in ("-f", "-l"):
            subprocess.run(["umount", how, str(self.mount)], stderr=subprocess.DEVNULL)


def kernel_stack(pid):
    """Where a process waits, for root."""
    try:
        return Path(f"/proc/{pid}/stack").read_text()
    except OSError as error:
        return f"({error})"


def free_port():
    while True:
        port = random.randrange(20000, 32000)
        try:
            for at in range(port, port + 17):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", at))
            return port
        except OSError:
            continue


def all_answer(workers, text):
    for worker in workers:
        worker.tell(text(worker) if callable(text) else text)
    return [worker.answer() for worker in workers]


def end(*_):
    # timeout(1) sends it twice; the second must not end the tidying up.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def perform(options, prefix, make_play):
    """Runs a play to its end in a folder of its own, and tidies up; the exit code. `make_play(options, base, rng)` has
    `run` and `abandon`."""
    print(f"seed {options.seed}", flush=True)
    base = Path(tempfile.mkdtemp(prefix=prefix))
    failed, play = None, None
    signal.signal(signal.SIGTERM, end)
    try:
        play = make_play(options, base, random.Random(options.seed))
        play.run()
    except (Failure, subprocess.TimeoutExpired) as failure:
        failed = failure
        print(f"FAILED (seed {options.seed}): {failure}", flush=True)
    finally:
        if play:
            play.abandon()
        if failed and options.keep:
            print(f"left in {base}")
        else:
            shutil.rmtree(base, ignore_errors=True)
    print("0 passed, 1 failed" if failed else "1 passed, 0 failed")
    return 1 if failed else 0
