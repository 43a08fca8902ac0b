# A small store is filled, over and over, with large and small files: the writer is told ENOSPC, what was
# acknowledged is right, deleting works and gives the space back. Who writes on without ever asking is told too.
export STAGE=$STAGE/small STORE_SIZE=512MiB
mkdir -p "$STAGE"
trap '"$SERVER" abandon' EXIT
"$SERVER" start
export METRICS=$(sed -n 's/^metrics *//p' "$STAGE/dev.log")
python3 "$ROOT/tests/posix/fill.py" "$STAGE/mnt" large,small:8,mixed "${ROUNDS:-10}" 1
for round in 1 2 3; do
    if dd if=/dev/zero of="$STAGE/mnt/endless" bs=1M count=2048 2>"$SCRATCH/told"; then exit 1; fi
    grep "error writing.*No space left" "$SCRATCH/told"
    [ "$(stat -c %s "$STAGE/mnt/endless")" -lt $((1 << 29)) ]
    rm "$STAGE/mnt/endless"
done
# Nor is it hidden from who makes a new file each time: what was closed without an error is there.
PYTHONPATH=$ROOT/tests/posix python3 -B - "$STAGE/mnt" <<'PYTHON'
import os, sys
from fill import write
SIZE, kept, refused = 200_000, [], 0
for number in range(5000):
    name = "%s/n%d" % (sys.argv[1], number)
    if write(name, "n%d" % number, SIZE, sync=False):
        kept.append(name)
    else:
        refused += 1
    if refused >= 20:
        break
assert refused, "it is not full"
os.sync()
lost = [name for name in kept if os.stat(name).st_size != SIZE]
assert not lost, "%d of %d" % (len(lost), len(kept))
print(len(kept), "files, then", refused, "refused")
PYTHON
rm "$STAGE"/mnt/n*
"$SERVER" restart
[ -z "$(ls -A "$STAGE/mnt")" ]
"$SERVER" stop
report=$("$CFS" fsck "$STAGE/store")
echo "$report"
if grep -q '^leak' <<<"$report"; then exit 1; fi
