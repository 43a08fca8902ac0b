# A small store is filled, over and over, with large and small files: the writer is told ENOSPC, what was
# acknowledged is right, deleting works and gives the space back. Who writes on without ever asking is told too.
export STAGE=$STAGE/small STORE_SIZE=512MiB
mkdir -p "$STAGE"
trap '"$SERVER" abandon' EXIT
"$SERVER" start
python3 "$ROOT/tests/posix/fill.py" "$STAGE/mnt" large,small,mixed "${ROUNDS:-10}" 1
for round in 1 2 3; do
    if dd if=/dev/zero of="$STAGE/mnt/endless" bs=1M count=2048 2>"$SCRATCH/told"; then exit 1; fi
    grep "error writing.*No space left" "$SCRATCH/told"
    [ "$(stat -c %s "$STAGE/mnt/endless")" -lt $((1 << 29)) ]
    rm "$STAGE/mnt/endless"
done
"$SERVER" restart
[ -z "$(ls -A "$STAGE/mnt")" ]
"$SERVER" stop
