"""For cases: random operations, one after the other, on several mounts of one directory and on a local file
system. Every answer is the same, and so is what each mount shows after it."""
import ctypes, errno, os, random, stat, sys

LIBC = ctypes.CDLL(None, use_errno=True)
NAMES = "abcdef"
NOREPLACE, EXCHANGE = 1, 2


def rename2(source, target, flags):
    if LIBC.renameat2(-100, source.encode(), -100, target.encode(), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def put(path, text, flags):
    file = os.open(path, os.O_WRONLY | flags, 0o644)
    try:
        os.write(file, text)
    finally:
        os.close(file)


def get(path):
    with open(path, "rb") as file:
        return file.read()


def look(path):
    """What a path shows: kind, mode, owner, links, and what it holds."""
    found = os.lstat(path)
    seen = (stat.S_IFMT(found.st_mode), found.st_mode & 0o7777, found.st_uid, found.st_gid, found.st_nlink)
    if stat.S_ISDIR(found.st_mode):
        return seen + (tuple(sorted(os.listdir(path))),)
    if stat.S_ISLNK(found.st_mode):
        return seen + (os.readlink(path),)
    return seen + (found.st_size, get(path) if stat.S_ISREG(found.st_mode) else b"")


def answer(work, *arguments):
    try:
        result = work(*arguments)
        return ("ok", result)
    except OSError as error:
        return ("error", errno.errorcode.get(error.errno, error.errno))


class Agreement:
    """Roots of the mounts, and of the local file system that is believed."""

    def __init__(self, seed, mounts, local):
        self.chance, self.mounts, self.local = random.Random(seed), mounts, local
        self.history = []

    def path(self):
        return "/".join(self.chance.choice(NAMES) for _ in range(self.chance.choice((1, 1, 2, 2, 3))))

    def operation(self):
        """(name, what to do below a root): one that looks first where `mv` would."""
        one, two, chance = self.path(), self.path(), self.chance
        text = bytes([chance.randrange(97, 123)]) * chance.randrange(1, 9000)
        mode, uid = chance.choice((0o600, 0o640, 0o755, 0o4755)), chance.choice((0, 1000, 65534))
        size = chance.randrange(10000)

        def looked(flags):
            def work(root):
                os.lstat(root + one)
                rename2(root + one, root + two, flags)
            return work

        return chance.choice([
            ("mkdir " + one, lambda root: os.mkdir(root + one)),
            ("mkdir " + one, lambda root: os.mkdir(root + one)),
            ("rmdir " + one, lambda root: os.rmdir(root + one)),
            ("create %s %d" % (one, len(text)), lambda root: put(root + one, text, os.O_CREAT | os.O_TRUNC)),
            ("create new " + one, lambda root: put(root + one, text, os.O_CREAT | os.O_EXCL)),
            ("append %s %d" % (one, len(text)), lambda root: put(root + one, text, os.O_APPEND)),
            ("overwrite %s %d" % (one, len(text)), lambda root: put(root + one, text, 0)),
            ("truncate %s %d" % (one, size), lambda root: os.truncate(root + one, size)),
            ("unlink " + one, lambda root: os.unlink(root + one)),
            ("rename %s %s" % (one, two), looked(0)),
            ("rename %s %s" % (one, two), looked(0)),
            ("rename %s %s" % (one, two), looked(0)),
            ("rename new %s %s" % (one, two), looked(NOREPLACE)),
            ("exchange %s %s" % (one, two), looked(EXCHANGE)),
            ("link %s %s" % (one, two), lambda root: os.link(root + one, root + two, follow_symlinks=False)),
            ("symlink " + one, lambda root: os.symlink("target", root + one)),
            ("chmod %s %o" % (one, mode), lambda root: os.chmod(root + one, mode)),
            ("chown %s %d" % (one, uid), lambda root: os.chown(root + one, uid, uid, follow_symlinks=False)),
        ])

    def fail(self, what):
        print(*self.history[-12:], sep="\n", file=sys.stderr)
        raise AssertionError(what)

    def step(self):
        side = self.chance.randrange(len(self.mounts))
        name, work = self.operation()
        self.history.append("%d: %s" % (side, name))
        expected, given = answer(work, self.local), answer(work, self.mounts[side])
        if expected != given:
            self.fail("%s on mount %d: %s, and %s on the local file system" % (name, side, given, expected))
        for path in [self.path() for _ in range(2)] + name.split()[1:]:
            if not set(path) <= set(NAMES + "/"):
                continue
            expected = answer(look, self.local + path)
            for number, mount in enumerate(self.mounts):
                if answer(look, mount + path) != expected:
                    self.fail("after %s on %d: %s on mount %d shows %.200s, and %.200s on the local file system"
                              % (name, side, path, number, answer(look, mount + path), expected))

    def trees(self):
        tree = lambda root: sorted((at[len(root):], look(at)) for at, _, _ in os.walk(root) if at != root)
        expected = tree(self.local)
        for number, mount in enumerate(self.mounts):
            if tree(mount) != expected:
                self.fail("the tree of mount %d: %s, and %s" % (number, tree(mount), expected))


if __name__ == "__main__":
    seeds, steps, local, mounts = range(*map(int, sys.argv[1].split(".."))), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    for seed in seeds:
        roots = []
        for root in [local] + mounts:
            roots.append("%s/%d/" % (root, seed))
            if root in (local, mounts[0]):
                os.mkdir(roots[-1])
        agreement = Agreement(seed, roots[1:], roots[0])
        try:
            for _ in range(steps):
                agreement.step()
            agreement.trees()
        except AssertionError:
            print("seed", seed, file=sys.stderr)
            raise
