# A block device instead of a directory: a loop device over a file, past the page cache.
store=$SCRATCH/disk mnt=$SCRATCH/mnt log=$SCRATCH/server.log
export CFS_STATE_DIR=$SCRATCH/state
mkdir "$mnt"
truncate -s 1G "$store"
device=$(losetup --find --show --direct-io=on "$store")
server='' client=''
clean_up() {
    umount -l "$mnt" 2>/dev/null || true
    [ -z "$client" ] || kill -KILL "$client" 2>/dev/null || true
    [ -z "$server" ] || kill -KILL "$server" 2>/dev/null || true
    wait
    losetup --detach "$device"
}
trap clean_up EXIT
port=$(python3 -c 'import random; print(random.randrange(29000, 32000, 20))')

serve() {
    : >"$log"
    "$CFS" server "$device" --listen "127.0.0.1:$port" --http "127.0.0.1:$((port + 16))" >"$log" 2>&1 &
    server=$!
    for _ in $(seq 200); do
        grep -q '^ready' "$log" && return 0
        kill -0 "$server" || break
        sleep 0.05
    done
    cat "$log"
    return 1
}

"$CFS" format "$device"
# A device that holds a store is not taken for an empty one.
if "$CFS" format "$device"; then exit 1; fi
serve
# Nobody else serves it, and it is named who does.
if "$CFS" server "$device" --listen 127.0.0.1:1 --http 127.0.0.1:0 2>"$SCRATCH/refused"; then exit 1; fi
grep -q "$server" "$SCRATCH/refused"
# Under another name it is the same device: neither served, nor formatted, nor checked beside the server.
mknod "$SCRATCH/alias" b $((0x$(stat -c %t "$device"))) $((0x$(stat -c %T "$device")))
for command in "server --listen 127.0.0.1:1 --http 127.0.0.1:0" "format --force" fsck; do
    # shellcheck disable=SC2086
    if "$CFS" $command "$SCRATCH/alias" 2>"$SCRATCH/refused"; then exit 1; fi
    grep -q "in use by process $server" "$SCRATCH/refused"
done
"$CFS" mount "127.0.0.1:$port" "$mnt" --foreground &
client=$!
for _ in $(seq 200); do mountpoint -q "$mnt" && break; sleep 0.05; done
mountpoint -q "$mnt"
head -c 20000000 /dev/urandom >"$SCRATCH/content"
cp "$SCRATCH/content" "$mnt/large"
for n in $(seq 100); do echo "$n" >"$mnt/small-$n"; done
sync "$mnt/large" "$mnt"/small-*
kill -KILL "$server"
wait "$server" || true
serve
cmp "$SCRATCH/content" "$mnt/large"
[ "$(cat "$mnt"/small-* | sort -n | tail -1)" = 100 ]
kill -TERM "$client"
wait "$client"
client=''
kill -TERM "$server"
wait "$server"
server=''
"$CFS" fsck "$device"
