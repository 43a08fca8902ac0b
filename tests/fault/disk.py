"""The disk whose power is cut: cfs-volatile-disk (src/), and the loop device that makes a block device of its file."""

import os
import select
import shutil
import subprocess
import time

from stage import Failure

ANSWER_SECONDS = 60
FREE_SECONDS = 60


class Disk:
    def __init__(self, base, program, size_bytes, seed):
        self.base, self.program, self.size_bytes, self.seed = base, program, size_bytes, seed
        self.place, self.backing = base / "disk", base / "backing"
        self.place.mkdir()
        self.process = self.device = None

    def plug_in(self):
        """An empty disk."""
        command = [self.program, self.place, self.backing, self.size_bytes, self.seed]
        log = open(self.base / "disk.log", "ab")
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1, start_new_session=True)
        self.read_answer("ready")
        self.attach()

    def pull_out(self):
        """Takes it away with all that it holds."""
        self.detach()
        self.process.stdin.close()
        if self.process.wait(ANSWER_SECONDS) != 0:
            raise Failure(f"the disk ended with {self.process.returncode}")
        self.process = None
        self.backing.unlink()

    def say(self, command):
        """Tells it something; what it answered behind the 'ok'."""
        self.process.stdin.write(command + "\n")
        return self.read_answer("ok")

    def read_answer(self, expected):
        if not select.select([self.process.stdout], [], [], ANSWER_SECONDS)[0]:
            raise Failure("the disk hangs")
        line = self.process.stdout.readline().strip()
        if not line.startswith(expected):
            raise Failure(f"the disk: {line or 'has ended'}")
        return line.removeprefix(expected).strip()

    def status(self):
        words = dict(word.split("=") for word in self.say("status").split())
        return {name: value if name == "power" else int(value) for name, value in words.items()}

    def attach(self):
        command = ["losetup", "--find", "--show", "--direct-io=on", self.place / "disk"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=ANSWER_SECONDS)
        if done.returncode != 0:
            raise Failure(f"losetup: {done.stderr}")
        self.device = done.stdout.strip()
        for name, expected in {"loop/dio": "1", "queue/write_cache": "write back"}.items():
            found = open(f"/sys/block/{os.path.basename(self.device)}/{name}").read().strip()
            if found != expected:
                raise Failure(f"{self.device} is no disk with a volatile cache past the page cache: {name} is {found}")

    def detach(self):
        """Takes the device from the system, and waits until nothing of the dead can reach the disk any more: the
        kernel may still work off what a killed process had asked for."""
        if not self.device:
            return
        subprocess.run(["losetup", "--detach", self.device], check=True, timeout=ANSWER_SECONDS)
        end = time.monotonic() + FREE_SECONDS
        while os.path.exists(f"/sys/block/{os.path.basename(self.device)}/loop"):
            if time.monotonic() > end:
                raise Failure(f"{self.device} is still in use")
            time.sleep(0.01)
        self.device = None

    def abandon(self):
        if self.device:
            subprocess.run(["losetup", "--detach", self.device], stderr=subprocess.DEVNULL)
        if self.process:
            # Its end takes the mount away, and answers whoever waits for the device.
            self.process.stdin.close()
            try:
                self.process.wait(ANSWER_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        subprocess.run(["umount", "-l", str(self.place)], stderr=subprocess.DEVNULL)


def program_beside(binary):
    program = os.path.join(os.path.dirname(binary), "cfs-volatile-disk")
    if not os.access(program, os.X_OK):
        raise SystemExit(f"{program} is missing: cargo build --profile ci -p cfs-fault")
    if os.geteuid() != 0 or not shutil.which("losetup"):
        raise SystemExit("power cuts need root and losetup")
    return program
