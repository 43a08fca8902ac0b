# A small store is filled, over and over, with large and small files: the writer is told ENOSPC, what was
# acknowledged is right, deleting works and gives the space back.
export STAGE=$STAGE/small STORE_SIZE=512MiB
mkdir -p "$STAGE"
trap '"$SERVER" abandon' EXIT
"$SERVER" start
python3 "$ROOT/tests/posix/fill.py" "$STAGE/mnt" large,small,mixed "${ROUNDS:-10}" 1
"$SERVER" restart
[ -z "$(ls -A "$STAGE/mnt")" ]
"$SERVER" stop
