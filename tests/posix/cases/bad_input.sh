# Random and mutated frames on the RPC port: the server lives, its memory stays bounded, a mount beside it
# works on, clients that take no answers hold little, and who does not prove the secret gets nothing.
pid=$(cat "$STAGE/dev.pid")
resident() { awk '/VmRSS/ { print $2 }' "/proc/$pid/status"; }
before=$(resident)
(while [ ! -e "$SCRATCH/over" ]; do
    for i in $(seq 20); do echo "content $i" >"$WORK/f$i" && [ "$(cat "$OTHER/f$i")" = "content $i" ] || exit 1; done
    rm "$WORK"/f*
    echo round >>"$SCRATCH/rounds"
done) &
worker=$!
python3 "$(dirname "$SERVER")/frames.py" "$(cat "$STAGE/port")" "$STAGE/store/secret" "${CONNECTIONS:-1500}" "$pid"
touch "$SCRATCH/over"
wait $worker
echo "$(wc -l <"$SCRATCH/rounds") rounds beside it; resident $before to $(resident) KiB"
[ "$(cat "$STAGE/dev.pid")" = "$pid" ] && kill -0 "$pid"
[ $(($(resident) - before)) -lt 131072 ]
