# Modes, owners, umask, setgid directories, sticky directories, times, links, special files.
umask 027
touch file && mkdir dir
[ "$(stat -c %a file dir | tr '\n' ' ')" = "640 750 " ]
umask 022
chmod 4711 file && chown 12:34 file
[ "$(stat -c '%a %u %g' file)" = "711 12 34" ]
chmod 4711 file && changed=$(stat -c %.9Z file)
python3 -c 'import os; os.chown("file", -1, -1)'
[ "$(stat -c '%a %u %g' file)" = "711 12 34" ] && [ "$(stat -c %.9Z file)" != "$changed" ]
touch -d '1970-01-01 00:00:00.123456789 UTC' file
[ "$(stat -c %.9Y file)" = 0.123456789 ]
touch -d '2100-06-01 UTC' file
[ "$(stat -c %Y file)" = 4115491200 ]
mkdir shared && chgrp 7 shared && chmod 2775 shared && touch shared/f && mkdir shared/d
[ "$(stat -c '%g %a' shared/f shared/d | tr '\n' ' ')" = "7 644 7 2755 " ]
ln file hard && [ "$(stat -c %h file)" = 2 ] && [ file -ef hard ]
ln -s "$(printf 't%.0s' {1..4000})" long && [ "$(readlink long | wc -c)" = 4001 ]
mkfifo fifo
(echo through >fifo) &
[ "$(cat fifo)" = through ]
mknod device c 1 3 && [ "$(stat -c '%t:%T %F' device)" = "1:3 character special file" ]
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
[ -S socket ]
setfattr -n user.key -v value file && [ "$(getfattr --only-values -n user.key hard)" = value ]
setfattr -x user.key file && ! getfattr -n user.key file 2>/dev/null
mkdir sticky && chmod 1777 sticky && touch sticky/mine && chmod 700 dir
if [ "$(id -u)" = 0 ] && id nobody >/dev/null; then
    as() { setpriv --reuid nobody --regid nogroup --clear-groups -- "$@"; }
    if as rm -f sticky/mine 2>/dev/null; then exit 1; fi
    if as touch refused 2>/dev/null; then exit 1; fi
    if as ls dir 2>/dev/null; then exit 1; fi
    as touch sticky/theirs && [ "$(stat -c %U sticky/theirs)" = nobody ]
fi
# What an attribute of another namespace means nobody here would enforce.
setfattr -n trusted.key -v value file && setfattr -n user.key -v value file
names() { python3 -c 'import os; print(*sorted(os.listxattr("file")))'; }
[ "$(names)" = "trusted.key user.key" ]
if id nobody >/dev/null; then
    [ "$(export -f names; setpriv --reuid nobody --regid nogroup --clear-groups -- bash -c names)" = user.key ]
fi
for name in system.posix_acl_access other.key; do
    if setfattr -n $name -v 0x0200000001000600ffffffff04000400ffffffff20000400ffffffff file 2>errors; then exit 1; fi
    grep -q 'not supported' errors
done
# Names that nothing can have are refused as ext4 does, also where they are asked for.
python3 - <<'PYTHON'
import errno, os
EXPECTED = {"user.": "EINVAL", "trusted.": "EINVAL", "user": "EOPNOTSUPP", "foo": "EOPNOTSUPP", "foo.bar": "EOPNOTSUPP", "system.foo": "EOPNOTSUPP"}
open("bare", "w").close()
for path in ("file", "bare"):
    for name, code in EXPECTED.items():
        for what in (lambda: os.getxattr(path, name), lambda: os.setxattr(path, name, b"v"), lambda: os.removexattr(path, name)):
            try:
                what()
            except OSError as error:
                assert error.errno == getattr(errno, code), (path, name, error)
            else:
                raise AssertionError(name)
    for name in ("user.none", "security.none", "system.posix_acl_access"):
        try:
            raise AssertionError(os.getxattr(path, name))
        except OSError as error:
            assert error.errno == errno.ENODATA, (path, name, error)
PYTHON
# `..` is listed with the number of the directory above, also after a move.
mkdir -p above/below other
python3 - <<'PYTHON'
import ctypes, os
class Dirent(ctypes.Structure):
    _fields_ = [("ino", ctypes.c_uint64), ("off", ctypes.c_int64), ("reclen", ctypes.c_uint16), ("kind", ctypes.c_uint8), ("name", ctypes.c_char * 256)]
libc = ctypes.CDLL(None)
libc.opendir.restype = ctypes.c_void_p
libc.readdir.restype = ctypes.POINTER(Dirent)
def listed(path):
    stream, found = ctypes.c_void_p(libc.opendir(path.encode())), {}
    while entry := libc.readdir(stream):
        found[entry.contents.name] = entry.contents.ino
    libc.closedir(stream)
    return found
assert listed("above/below") == {b".": os.stat("above/below").st_ino, b"..": os.stat("above").st_ino}
os.rename("above/below", "other/below")
assert listed("other/below")[b".."] == os.stat("other").st_ino
PYTHON
