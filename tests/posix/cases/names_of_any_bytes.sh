# Names hold any byte but '/' and NUL, up to 255 of them; longer ones are refused.
python3 - <<'PYTHON'
import errno, os
names = {bytes([b]) * n for b in range(1, 256) if b != 47 for n in (1, 3, 255)} - {b"."}
names |= {bytes(b for b in range(1, 256) if b != 47), "naïve-中文-🦀".encode(), b"\xff\xfe\x80bad utf8", b"-rf", b" ", b"\n", b"..."}
for name in names:
    with open(name, "xb") as file:
        file.write(name)
assert set(os.listdir(b".")) == names
for name in names:
    assert open(name, "rb").read() == name
for make in (lambda n: open(n, "xb"), os.mkdir, lambda n: os.symlink(b"x", n), os.stat, lambda n: os.rename(b"a", n)):
    try:
        make(b"n" * 256)
    except OSError as error:
        assert error.errno == errno.ENAMETOOLONG, error
    else:
        raise AssertionError("256 bytes were taken")
PYTHON
