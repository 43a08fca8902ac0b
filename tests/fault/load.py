"""A verifying load: works in one directory of a mount, and knows what must be there.

Driven by tests/fault/run over stdin, a command a line:
  root PATH    the mount's directory to work in
  work SECONDS work until then, or until the mount has died; answers 'worked OPERATIONS'
  last SECONDS as work, but the mount may not die
  powered SECONDS  as work, but the device may fail and the store may be another one: answers 'worked OPERATIONS' and
               with which error it ended
  judge        as verify, or 'refused ERROR' where the mount or the device refuses to say
  verify       compare what is there with what was acknowledged; answers 'verified FILES'
Any difference ends the process with its description and the last operations.

What was acknowledged before a kill must be there after it; the one operation that was not may have happened or
not, as a whole: of a rename, also between directories (of different shards) or of two names exchanged, both names
tell. A write or append that no fsync followed may be there or not, block by block: a mount holds appends back as well
while nobody else has the file. Some files have a hole first, so that their blocks lie on both sides of
a range's end, in two shards.
"""

import copy
import ctypes
import errno
import os
import random
import sys
import time

BLOCK = 4096
BLOCKS_MAX = 96
FILES_MAX = 40
# Where the blocks of a large file begin: half of them lie in the first range of 64 MiB.
LARGE = (64 << 20) // BLOCK - BLOCKS_MAX // 2
RANGE_END = BLOCKS_MAX // 2
RENAME_EXCHANGE = 2
DIRECTORIES = ["", "a", "b", "a/c"]
WRITES = ("write", "append")
DEAD = {errno.ENOTCONN, errno.ECONNABORTED}
# What a failed device and a store that is not the one it was are answered with.
REFUSED = {errno.EIO, errno.ESTALE}


LIBC = ctypes.CDLL(None, use_errno=True)


def exchange(old, new):
    if LIBC.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), RENAME_EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), old)


class Died(Exception):
    """The mount went away."""


def pattern(file, block, version):
    """A block's content; version 0 is a hole."""
    if version == 0:
        return bytes(BLOCK)
    return (b"%08d.%06d.%08d|" % (file, block, version) * 171)[:BLOCK]


class File:
    """What is known of one inode: the versions that each block may have, the first of them surely synced.
    Blocks are counted from the file's base; before it is a hole, and a file without blocks is empty."""

    def __init__(self, number, base):
        self.number = number
        self.base = base
        self.blocks = []          # per block a list of versions that may be found
        self.sizes = [0]          # sizes in blocks that may be found
        self.mode = 0o644
        self.attribute = None
        self.links = 1

    def write(self, at, count, version):
        while len(self.blocks) < at + count:
            self.blocks.append([0])
        for block in range(at, at + count):
            self.blocks[block] = self.blocks[block] + [version]
        if at + count > self.sizes[0]:
            self.sizes = self.sizes + [at + count]
            # What crosses the end of a range goes to the server in two parts.
            if self.base == LARGE and at < RANGE_END < at + count:
                self.sizes.append(RANGE_END)

    def bytes_of(self, size):
        return (self.base + size) * BLOCK if size else 0

    def append(self, count, version):
        self.write(max(self.sizes), count, version)

    def synced(self):
        self.blocks = [[versions[-1]] for versions in self.blocks]
        self.sizes = [max(self.sizes)]

    def is_synced(self):
        return len(self.sizes) == 1 and all(len(versions) == 1 for versions in self.blocks)

    def truncate(self, size):
        """Every truncate is followed by fsync here."""
        self.blocks = [versions[-1:] for versions in self.blocks[:size]] + [[0]] * (size - len(self.blocks))
        self.sizes = [size]


class Tree:
    """Names to files or directories (None) or link targets (str). Paths are relative to the root."""

    def __init__(self):
        self.names = {name: None for name in DIRECTORIES if name}
        self.files = {}

    def apply(self, operation):
        kind, *arguments = operation
        getattr(self, kind)(*arguments)

    def create(self, path, number, base):
        self.files[number] = File(number, base)
        self.names[path] = number

    def write(self, path, at, count, version):
        self.files[self.names[path]].write(at, count, version)

    def append(self, path, count, version):
        self.files[self.names[path]].append(count, version)

    def fsync(self, path):
        self.files[self.names[path]].synced()

    def truncate(self, path, size):
        self.files[self.names[path]].truncate(size)

    def cut(self, path, size):
        """A truncate that was not acknowledged, perhaps without the writes before it."""
        file = self.files[self.names[path]]
        file.blocks = (file.blocks + [[0]] * size)[:size]
        file.sizes = [size]

    def chmod(self, path, mode):
        self.files[self.names[path]].mode = mode

    def setxattr(self, path, value):
        self.files[self.names[path]].attribute = value

    def link(self, path, new):
        self.names[new] = self.names[path]
        self.files[self.names[path]].links += 1

    def unlink(self, path):
        found = self.names.pop(path)
        if isinstance(found, int):
            self.files[found].links -= 1
            if self.files[found].links == 0:
                del self.files[found]

    def symlink(self, path, target):
        self.names[path] = target

    def mkdir(self, path):
        self.names[path] = None

    def rmdir(self, path):
        del self.names[path]

    def rename(self, old, new):
        if old == new or (isinstance(self.names[old], int) and self.names[old] == self.names.get(new)):
            return
        if isinstance(self.names.get(new), (int, str)):
            self.unlink(new)
        self.names.update(self.taken(old, new))

    def exchange(self, old, new):
        there = self.taken(old, new)
        self.names.update(self.taken(new, old))
        self.names.update(there)

    def taken(self, old, new):
        """A name and what is below it, taken away, as they are called elsewhere."""
        moved = [name for name in self.names if name == old or name.startswith(old + "/")]
        return {new + name[len(old):]: self.names.pop(name) for name in moved}


class Load:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.root = None
        self.tree = Tree()
        self.counter = 0
        self.recent = []
        self.pending = None       # the operation that was under way when the mount failed
        self.ends = DEAD          # errors that end the work
        self.ended = None         # the one that did

    def path(self, name):
        return os.path.join(self.root, name) if name else self.root

    def begin(self):
        for name in DIRECTORIES:
            os.makedirs(self.path(name), exist_ok=True)

    def next(self):
        self.counter += 1
        return self.counter

    def new_name(self):
        directory = self.rng.choice([n for n, v in self.tree.names.items() if v is None] + [""])
        return os.path.join(directory, "n%d" % self.next())

    def choose(self):
        """The next operation: what the tree is told, and how it is done."""
        rng, names = self.rng, self.tree.names
        files = [name for name, value in names.items() if isinstance(value, int)]
        kinds = ["write"] * 5 + ["append", "append", "create", "rename", "rename", "replace", "exchange", "link", "unlink", "truncate", "chmod", "setxattr", "symlink", "mkdir", "rmdir", "move_directory"]
        kind = "create" if len(files) < 5 else rng.choice(kinds)
        if kind in ("create", "link") and len(files) >= FILES_MAX:
            kind = "unlink"
        file = rng.choice(files) if files else None
        fresh = self.new_name()
        if kind == "create":
            return ("create", fresh, self.next(), rng.choice([0, 0, LARGE]))
        if kind == "write":
            at = rng.randrange(BLOCKS_MAX)
            return ("write", file, at, rng.randrange(1, min(17, BLOCKS_MAX - at + 1)), self.next())
        if kind == "append":
            size = max(self.tree.files[names[file]].sizes)
            return ("append", file, rng.randrange(1, 17), self.next()) if 0 < size < BLOCKS_MAX else ("fsync", file)
        if kind == "exchange":
            return self.choose_exchange() or ("fsync", file)
        if kind == "rename":
            return ("rename", rng.choice([n for n, v in names.items() if v is not None]), fresh)
        if kind == "replace":
            return ("rename", file, rng.choice(files))
        if kind == "link":
            return ("link", file, fresh)
        if kind == "unlink":
            return ("unlink", rng.choice([n for n, v in names.items() if v is not None]))
        if kind == "truncate":
            return ("truncate", file, rng.randrange(BLOCKS_MAX))
        if kind == "chmod":
            return ("chmod", file, rng.choice([0o600, 0o640, 0o755, 0o444]) | 0o600)
        if kind == "setxattr":
            return ("setxattr", file, b"%d" % self.next())
        if kind == "symlink":
            return ("symlink", fresh, "target-%d" % self.next())
        if kind == "mkdir":
            return ("mkdir", fresh)
        empty = [n for n, v in names.items() if v is None and n not in DIRECTORIES]
        if kind == "rmdir":
            empty = [n for n in empty if not any(o.startswith(n + "/") for o in names)]
            return ("rmdir", rng.choice(empty)) if empty else ("mkdir", fresh)
        if not empty:
            return ("mkdir", fresh)
        old = rng.choice(empty)
        fits = [n for n, v in names.items() if v is None and n != old and not n.startswith(old + "/")]
        return ("rename", old, os.path.join(rng.choice(fits), "m%d" % self.next()))

    def choose_exchange(self):
        """Two names, neither of them above the other."""
        names = [n for n in self.tree.names if n not in DIRECTORIES]
        one, other = self.rng.choice(names), self.rng.choice(names)
        apart = not (one + "/").startswith(other + "/") and not (other + "/").startswith(one + "/")
        return ("exchange", one, other) if apart else None

    def perform_on_data(self, path, file, kind, *rest):
        fd = os.open(path, os.O_WRONLY | (os.O_APPEND if kind == "append" else 0))
        try:
            if kind in ("write", "append"):
                *at, count, version = rest
                # Of an append the tree knows already.
                at = at[0] if at else max(file.sizes) - count
                data = b"".join(pattern(file.number, block, version) for block in range(at, at + count))
                done = os.write(fd, data) if kind == "append" else os.pwrite(fd, data, (file.base + at) * BLOCK)
                assert done == len(data), f"{done} of {len(data)} bytes written"
            else:
                if kind == "truncate":
                    os.ftruncate(fd, file.bytes_of(rest[0]))
                os.fsync(fd)
        finally:
            os.close(fd)

    def perform(self, operation):
        kind, name, *rest = operation
        path = self.path(name)
        if kind == "create":
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        elif kind in ("write", "append", "fsync", "truncate"):
            self.perform_on_data(path, self.tree.files[self.tree.names[name]], kind, *rest)
        elif kind == "setxattr":
            os.setxattr(path, "user.load", rest[0])
        elif kind == "chmod":
            os.chmod(path, rest[0])
        elif kind in ("link", "rename"):
            getattr(os, kind)(path, self.path(rest[0]))
        elif kind == "exchange":
            exchange(path, self.path(rest[0]))
        elif kind == "symlink":
            os.symlink(rest[0], path)
        else:
            getattr(os, kind)(path)

    def run(self, operation):
        self.recent = self.recent[-40:] + [operation]
        # A write that was not acknowledged may still reach the file.
        if operation[0] in WRITES:
            self.tree.apply(operation)
        try:
            self.perform(operation)
        except OSError as error:
            # Once it is unmounted its place is an empty directory.
            if error.errno in self.ends or error.errno == errno.ENOENT and not os.path.ismount(os.path.dirname(self.root)):
                self.pending, self.ended = operation, errno.errorcode[error.errno]
                raise Died from error
            raise
        if operation[0] not in WRITES:
            self.tree.apply(operation)

    def work(self, seconds, ends=DEAD):
        end, done = time.monotonic() + seconds, 0
        self.ends, self.ended = ends, None
        try:
            while time.monotonic() < end:
                operation = self.choose()
                self.run(operation)
                done += 1
                if operation[0] in WRITES and self.rng.random() < 0.7:
                    self.run(("fsync", operation[1]))
        except Died:
            pass
        return done

    def verify(self):
        self.sync()
        found, problems = self.scan(), []
        candidates = [self.tree]
        if self.pending and self.pending[0] not in WRITES + ("fsync",):
            after = copy.deepcopy(self.tree)
            if self.pending[0] == "truncate":
                after.cut(*self.pending[1:])
            else:
                after.apply(self.pending)
            candidates.append(after)
        for candidate in candidates:
            problem = self.compare(candidate, found)
            if problem is None:
                self.tree = candidate
                break
            problems.append(problem)
        else:
            fail(" and if what was under way was done: ".join(problems) + f"\nunder way: {self.pending}\nbefore it: {self.recent}")
        self.pending = None
        self.settle(found)
        return len(found)

    def sync(self):
        """What a living mount still holds back is no knowledge of what is there."""
        for name, number in self.tree.names.items():
            if not isinstance(number, int) or self.tree.files[number].is_synced():
                continue
            try:
                fd = os.open(self.path(name), os.O_WRONLY | os.O_NOFOLLOW)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            except OSError as error:
                # The name went with what was under way, or a write was lost and that is told now.
                if error.errno in DEAD or error.errno == errno.ESTALE:
                    raise

    def scan(self):
        """Path to what is there."""
        found = {}
        for directory, directories, files in os.walk(self.root, onerror=give_up):
            for name in directories + files:
                path = os.path.join(directory, name)
                status = os.lstat(path)
                kind = status.st_mode & 0o170000
                if kind == 0o120000:
                    value = os.readlink(path)
                elif kind == 0o040000:
                    value = None
                else:
                    attributes = {n: os.getxattr(path, n) for n in os.listxattr(path)}
                    content = read_blocks(path, status.st_size)
                    value = (status.st_ino, status.st_mode & 0o7777, status.st_nlink, attributes.get("user.load"), content)
                found[os.path.relpath(path, self.root)] = value
        return found

    def compare(self, tree, found):
        if set(tree.names) != set(found):
            return f"missing: {sorted(set(tree.names) - set(found))}, too many: {sorted(set(found) - set(tree.names))}"
        inodes = {}
        for name, expected in tree.names.items():
            value = found[name]
            if not isinstance(expected, int):
                if value != expected:
                    return f"{name}: {str(value)[:80]} instead of {expected}"
                continue
            if not isinstance(value, tuple):
                return f"{name}: {value} instead of a file"
            if inodes.setdefault(expected, value[0]) != value[0]:
                return f"{name}: another inode than its other name"
            problem = self.compare_file(tree.files[expected], value)
            if problem:
                return f"{name}: {problem}"
        if len(set(inodes.values())) != len(inodes):
            return "two files in one inode"
        return None

    def compare_file(self, file, value):
        _, mode, links, attribute, (base, size, content) = value
        if (mode, links, attribute) != (file.mode, file.links, file.attribute):
            return f"mode, links, attribute {(oct(mode), links, attribute)}, not {(oct(file.mode), file.links, file.attribute)}"
        if size not in [file.bytes_of(blocks) for blocks in file.sizes]:
            return f"{size} bytes, not one of {file.sizes} blocks from {file.base}"
        if size and base != file.base:
            return f"data at block {base}, before the first at {file.base}"
        for block in range(len(content) // BLOCK):
            here = content[block * BLOCK:(block + 1) * BLOCK]
            if not any(here == pattern(file.number, block, version) for version in file.blocks[block]):
                return f"block {block} is {here[:25]!r}.., not one of the versions {file.blocks[block]}"
        return None

    def settle(self, found):
        """What was found is what is known from here on: the server had it."""
        for name, number in self.tree.names.items():
            if not isinstance(number, int):
                continue
            file, content = self.tree.files[number], found[name][4][2]
            blocks = []
            for block in range(len(content) // BLOCK):
                here = content[block * BLOCK:(block + 1) * BLOCK]
                blocks.append([next(v for v in file.blocks[block] if here == pattern(file.number, block, v))])
            file.blocks, file.sizes = blocks, [len(blocks)]


def read_blocks(path, size):
    """The block from which a file was read, its size, and what it holds from there. Of a large file what
    is before the blocks of such a one is read only where there is data."""
    with open(path, "rb") as file:
        base = 0
        if size > LARGE * BLOCK:
            try:
                first = os.lseek(file.fileno(), 0, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                first = size
            base = LARGE if first >= LARGE * BLOCK else first // BLOCK
        file.seek(base * BLOCK)
        return base, size, file.read()


def give_up(error):
    raise error


def fail(text):
    print("FAILED " + text.replace("\n", "\n       "), flush=True)
    sys.exit(1)


def main():
    load = Load(int(sys.argv[1]))
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "root":
            load.root = arguments[0]
            load.begin()
            print("ready", flush=True)
        elif command == "work":
            print("worked", load.work(float(arguments[0])), flush=True)
        elif command == "last":
            done = load.work(float(arguments[0]))
            if load.pending:
                fail(f"the mount died in {load.pending}")
            print("worked", done, flush=True)
        elif command == "powered":
            print("worked", load.work(float(arguments[0]), DEAD | REFUSED), load.ended or "", flush=True)
        elif command == "judge":
            try:
                print("verified", load.verify(), flush=True)
            except OSError as error:
                if error.errno not in REFUSED:
                    raise
                print("refused", errno.errorcode[error.errno], flush=True)
        elif command == "verify":
            print("verified", load.verify(), flush=True)


main()
