# What was written is delivered when `cfs umount` returns, also where nobody asked for it before.
port=$(cat "$STAGE/port")
mkdir "$SCRATCH/third"
for size in 1 20 64; do
    "$CFS" mount "127.0.0.1:$port" "$SCRATCH/third" --foreground >"$SCRATCH/third.log" 2>&1 &
    mount=$!
    for _ in $(seq 200); do grep -q '^ready' "$SCRATCH/third.log" && break; sleep 0.05; done
    grep -q '^ready' "$SCRATCH/third.log"
    file=$SCRATCH/third/$(basename "$WORK")/file$size
    dd if=/dev/urandom of="$SCRATCH/content" bs=1M count="$size" status=none
    dd if="$SCRATCH/content" of="$file" bs=1M status=none
    # Stopped at once, it can deliver nothing more.
    "$CFS" umount "$SCRATCH/third" && kill -STOP $mount 2>/dev/null || [ ! -d /proc/$mount ]
    cmp "$SCRATCH/content" "file$size" || { kill -CONT $mount; exit 1; }
    kill -CONT $mount 2>/dev/null || true
    wait $mount
done
