# Random operations in turns on two mounts: every answer, and what each mount shows, is that of a local file system.
[ "$(id -u)" = 0 ] || exit 0
mkdir "$SCRATCH/local"
PYTHONDONTWRITEBYTECODE=1 python3 "$ROOT/tests/posix/agree.py" 0..12 250 "$SCRATCH/local" "$WORK" "$OTHER"
