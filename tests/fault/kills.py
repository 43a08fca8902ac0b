"""Kills of the server with -9 under a verifying load, again and again.

Every other kill takes `cfs dev` with its mount; the others take `cfs server` under a mount that stays, for which
that must be a wait and not an error, also where the server is told to stop. Some kills hit the recovery from the one
before. After each, every synced byte and acknowledged name is looked for (load.py), and `cfs fsck` verifies the store.
"""

import time

from stage import Stage, Worker, all_answer


def one_that_takes_the_mount(stage, workers, rng):
    work_until(stage.kill, stage, workers, rng)


def a_stop_under_the_load(stage, workers, rng):
    work_until(stage.stop, stage, workers, rng)


def work_until(end, stage, workers, rng):
    stage.start("dev")
    all_answer(workers, lambda w: f"root {stage.mount}/w{w.number}")
    all_answer(workers, "verify")
    for worker in workers:
        worker.tell("work 60")
    time.sleep(rng.uniform(0.1, 2.0))
    end()
    for worker in workers:
        worker.answer()


def one_under_a_live_mount(stage, workers, rng):
    end_under_a_live_mount(stage.kill, stage, workers, rng)


def a_stop_under_a_live_mount(stage, workers, rng):
    end_under_a_live_mount(stage.stop, stage, workers, rng)


def end_under_a_live_mount(end, stage, workers, rng):
    stage.start("server")
    stage.attach()
    all_answer(workers, lambda w: f"root {stage.mount}/w{w.number}")
    all_answer(workers, "verify")
    for worker in workers:
        worker.tell("last 6")
    time.sleep(rng.uniform(0.1, 2.0))
    end()
    stage.start("server")
    for worker in workers:
        worker.answer()
    all_answer(workers, "verify")
    if rng.random() < 0.5:
        stage.detach()
    else:
        for worker in workers:
            worker.tell("work 60")
        time.sleep(rng.uniform(0.1, 1.0))
        stage.kill_client()
        for worker in workers:
            worker.answer()
    stage.kill()


def kills_while_it_recovers(stage, workers, rng):
    for _ in range(rng.choice([0, 0, 1, 2])):
        stage.start("server", wait=False)
        time.sleep(rng.uniform(0.05, 1.5))
        stage.kill()


TURNS = [
    one_that_takes_the_mount,
    kills_while_it_recovers,
    one_under_a_live_mount,
    kills_while_it_recovers,
    a_stop_under_the_load,
    a_stop_under_a_live_mount,
]


class Play:
    def __init__(self, options, base, rng):
        self.options, self.rng = options, rng
        self.stage = Stage(base, options.binary, options.size)
        self.workers = [Worker(number, options.seed * 100 + number) for number in range(options.workers)]

    def run(self):
        stage, turn = self.stage, 0
        while stage.kills < self.options.kills:
            TURNS[turn % len(TURNS)](stage, self.workers, self.rng)
            turn += 1
            print(f"{stage.kills} kills, {self.done()} operations", flush=True)
        stage.start("dev")
        files = sum(int(answer[1]) for answer in all_answer(self.workers, "verify"))
        stage.stop()
        print(f"{stage.kills} kills and {stage.stops} stops survived under {self.done()} acknowledged operations, {files} names compared at the end, every store clean")

    def done(self):
        return sum(worker.done for worker in self.workers)

    def abandon(self):
        for worker in self.workers:
            worker.process.kill()
        self.stage.abandon()
