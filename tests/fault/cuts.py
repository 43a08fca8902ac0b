"""Power cuts under a verifying load: a disk that loses what was not flushed (disk.py) below the real server.

A cut takes the power at a random moment, or at a random request: everything fails from then on, and of what was not
flushed a random subset of sectors is left. The server is killed, or has to end by itself, in words. Then the power
comes back, `cfs fsck` verifies the store, and every synced byte and acknowledged name is looked for. Some cuts hit
the recovery. In between one request fails with EIO, after which the store is out of service as documented; and the
disk lies: flushes are answered and make nothing durable. After that and a cut, data may be lost: then the server
refuses to start, or the mount that has seen it breaks down, and nobody reads anything else in silence.
"""

import os
import select
import subprocess
import time

from disk import Disk, program_beside
from stage import Failure, Stage, Worker, all_answer

DISK_BYTES = 1 << 30
# A server whose disk is gone has so long to end by itself.
END_SECONDS = 30
WORK_SECONDS = 3
LONG_WORK_SECONDS = 60


class PoweredStage(Stage):
    """A stage whose store is the device."""

    def __init__(self, base, binary, program, seed):
        super().__init__(base, binary, "0")
        self.disk = Disk(base, program, DISK_BYTES, seed)
        self.cuts = self.refusals = 0

    def format(self):
        self.disk.plug_in()
        self.store = self.disk.device
        subprocess.run([self.binary, "format", self.store], check=True, timeout=60, stdout=subprocess.DEVNULL)

    def is_serving(self):
        return self.server is not None and self.server.poll() is None

    def end_of_server(self, by_itself):
        """The server without its disk: it is killed, or ends by itself, with a word and not with success."""
        if by_itself:
            try:
                self.server.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                raise Failure(f"the server goes on without its disk; it said:\n{self.words('server')}") from None
        else:
            self.server.kill()
            self.server.wait(END_SECONDS)
        if self.server.returncode not in (1, -9):
            raise Failure(f"without its disk the server ended with {self.server.returncode}:\n{self.words('server')}")
        word = self.words("server").rstrip().split("\n")[-1]
        if self.server.returncode == 1 and not word.startswith("cfs: "):
            raise Failure(f"the server ended without a word of why: {word!r}")
        return word if self.server.returncode == 1 else "killed"

    def power_back(self):
        self.disk.detach()
        self.disk.say("restore")
        self.disk.attach()
        self.store = self.disk.device

    def abandon(self):
        super().abandon()
        self.disk.abandon()


class Play:
    def __init__(self, options, base, rng):
        self.options, self.base, self.rng = options, base, rng
        program = program_beside(options.binary)
        # Secrets and sockets of a store on a device lie here.
        os.environ["CFS_STATE_DIR"] = str(base / "state")
        self.stage = PoweredStage(base, options.binary, program, options.seed)
        self.workers, self.generation, self.done = [], 0, 0

    def run(self):
        self.begin_anew()
        turn = 0
        while self.stage.cuts < self.options.cuts or turn < len(TURNS):
            began = time.monotonic()
            what = TURNS[turn % len(TURNS)](self)
            turn += 1
            print(f"{self.stage.cuts} cuts: {what} ({time.monotonic() - began:.1f} s)", flush=True)
        self.bring_up()
        files = sum(int(answer[1]) for answer in all_answer(self.workers, "verify"))
        self.stage.stop()
        self.count_done()
        print(f"{self.stage.cuts} power cuts survived under {self.done} acknowledged operations, {files} names compared at the end")

    def begin_anew(self):
        """An empty store, and workers who know of nothing in it."""
        self.stage.format()
        self.generation += 1
        first = self.options.seed * 1000 + self.generation * 20
        self.workers = [Worker(number, first + number) for number in range(self.options.workers)]

    def end_store(self):
        self.count_done()
        for worker in self.workers:
            worker.process.kill()
        # Without its mount's process a worker that waits in the kernel is answered.
        for process in (self.stage.client, self.stage.server):
            process.kill()
            process.wait()
        self.stage.client = self.stage.server = None
        for worker in self.workers:
            worker.process.wait(END_SECONDS)
        subprocess.run(["umount", "-l", str(self.stage.mount)], stderr=subprocess.DEVNULL)
        self.stage.disk.pull_out()

    def count_done(self):
        self.done += sum(worker.done for worker in self.workers)

    def abandon(self):
        for worker in self.workers:
            worker.process.kill()
        self.stage.abandon()

    # What turns are made of.

    def bring_up(self, kind="server"):
        """A server and a mount, new ones or those that are there."""
        stage = self.stage
        if kind == "dev":
            if stage.client:
                stage.detach()
            if stage.is_serving():
                stage.stop()
            stage.start("dev")
        else:
            if not stage.is_serving():
                stage.start("server")
            if not stage.client:
                stage.attach()
        all_answer(self.workers, lambda worker: f"root {stage.mount}/w{worker.number}")
        all_answer(self.workers, "verify")

    def work(self, seconds):
        for worker in self.workers:
            worker.tell(f"powered {seconds}")

    def nobody_has_stopped(self):
        for worker in self.workers:
            if select.select([worker.process.stdout], [], [], 0)[0]:
                raise Failure(f"worker {worker.number} stopped before anything failed: {worker.answer()}")

    def answers(self, allowed):
        """Lets the workers end; with no other error than those."""
        endings = [worker.answer()[2:] for worker in self.workers]
        strange = [ending for ending in endings if ending and ending[0] not in allowed]
        if strange:
            raise Failure(f"the load ended with {strange}, not {allowed}")
        return endings

    def cut(self):
        """The power goes at once, or at a request of the next ones."""
        stage, rng = self.stage, self.rng
        seed = rng.randrange(1 << 32)
        self.nobody_has_stopped()
        if rng.random() < 0.5:
            stage.disk.say(f"cut {seed}")
        else:
            stage.disk.say(f"cut {seed} after {rng.randrange(40)}")
            self.wait_for("power", "off") or stage.disk.say(f"cut {seed}")
        stage.cuts += 1

    def wait_for(self, name, value, seconds=5):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.stage.disk.status()[name] == value:
                return True
            time.sleep(0.005)
        return False

    def cut_the_power(self):
        """Cuts, ends the server, brings the power back. Says how the server ended."""
        self.cut()
        ended = self.stage.end_of_server(by_itself=self.rng.random() < 0.5)
        self.stage.power_back()
        self.stage.check()
        return ended

    def cut_recoveries(self):
        """Starts that meet the next cut, none to two of them."""
        hits = self.rng.choice([0, 1, 1, 2])
        for _ in range(hits):
            seed, after = self.rng.randrange(1 << 32), self.rng.choice([0, 1, 2, 5, 10, 20, 40])
            self.stage.disk.say(f"cut {seed} after {after}")
            self.stage.start("server", wait=False)
            cut = self.wait_for("power", "off", seconds=2)
            if not cut:
                self.stage.disk.say(f"cut {seed}")
            self.stage.cuts += 1
            self.stage.end_of_server(by_itself=self.rng.random() < 0.5)
            self.stage.power_back()
            self.stage.check()
        return hits


def one_under_a_live_mount(play):
    play.bring_up()
    play.work(WORK_SECONDS)
    time.sleep(play.rng.uniform(0.05, 1.5))
    ended = play.cut_the_power()
    hits = play.cut_recoveries()
    play.stage.start("server")
    play.answers({"EIO"})
    all_answer(play.workers, "verify")
    leave = play.rng.choice(["stays", "is detached", "is killed"])
    if leave == "is detached":
        play.stage.detach()
    elif leave == "is killed":
        play.stage.kill_client()
    return f"under a live mount, server: {ended}; {hits} more while it recovered; the mount {leave}"


def one_that_takes_the_mount(play):
    play.bring_up("dev")
    play.work(LONG_WORK_SECONDS)
    time.sleep(play.rng.uniform(0.05, 1.5))
    ended = play.cut_the_power()
    play.answers({"EIO", "ENOTCONN", "ECONNABORTED", "ENOENT"})
    hits = play.cut_recoveries()
    return f"with the mount in the server, which: {ended}; {hits} more while it recovered"


def one_request_that_fails(play):
    """A write or flush that fails takes the store out of service, until somebody looks; a read that fails does not."""
    play.bring_up()
    kind = play.rng.choice(["write", "flush", "read"])
    play.work(WORK_SECONDS)
    time.sleep(play.rng.uniform(0.05, 1.0))
    play.nobody_has_stopped()
    play.stage.disk.say(f"fail {kind} after {play.rng.randrange(5 if kind == 'read' else 50)}")
    if kind == "read":
        play.answers({"EIO"})
        all_answer(play.workers, "verify")
        return f"a failed read: {play.stage.disk.status()['failed']} of 1 hit, served on"
    ended = play.stage.end_of_server(by_itself=True)
    stage = play.stage
    stage.start("server", wait=False)
    refused = stage.end_of_server(by_itself=True)
    found, back = stage.run_fsck(), stage.run_fsck("--return-to-service")
    for code, text in ((found.returncode, found.stdout), (1, refused)):
        if code != 1 or "out of service" not in text and "return-to-service" not in text:
            raise Failure(f"a store whose {kind} failed is not out of service: {text}")
    if back.returncode != 0:
        raise Failure(f"it does not return to service: {back.stdout}{back.stderr}")
    stage.start("server")
    play.answers({"EIO"})
    all_answer(play.workers, "verify")
    return f"a failed {kind}, server: {ended}"


def a_disk_that_lies(play):
    """What it has called durable may be lost: nobody who has seen it is served anything else."""
    play.bring_up()
    play.work(WORK_SECONDS)
    time.sleep(play.rng.uniform(0.05, 0.8))
    disk, stage = play.stage.disk, play.stage
    disk.say("lie on")
    time.sleep(play.rng.uniform(0.05, 0.8))
    honest = play.rng.random() < 0.25
    if honest:
        flushes = disk.status()["flushes"]
        disk.say("lie off")
        honest = any(disk.status()["flushes"] > flushes or time.sleep(0.01) for _ in range(100))
    unflushed = disk.status()["unflushed"]
    play.cut()
    stage.end_of_server(by_itself=False)
    stage.power_back()
    if honest:
        stage.check()
        stage.start("server")
        play.answers({"EIO"})
        all_answer(play.workers, "verify")
        return "a lie that a flush made good before the cut"
    outcome = judge(play)
    play.end_store()
    play.begin_anew()
    return f"a disk that lied ({unflushed} sectors): {outcome}"


def judge(play):
    stage = play.stage
    fsck = "fsck is clean" if stage.run_fsck().returncode == 0 else "fsck finds damage"
    try:
        stage.start("server")
    except Failure:
        if stage.is_serving():
            raise
        word = stage.end_of_server(by_itself=True)
        stage.refusals += 1
        return f"{fsck}, the start is refused: {word}"
    play.answers({"EIO", "ESTALE"})
    verdicts = [" ".join(answer) for answer in all_answer(play.workers, "judge")]
    return f"{fsck}, it starts, the live mount: {verdicts}"


TURNS = [one_under_a_live_mount, a_disk_that_lies, one_that_takes_the_mount, one_request_that_fails, one_under_a_live_mount]
