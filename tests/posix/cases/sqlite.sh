# SQLite keeps its integrity in every journal mode, also across kill -9 in the middle of work.
work() {
    sqlite3 "$1" "pragma journal_mode=$2; pragma synchronous=full;
        create table if not exists t(a integer primary key, b); 
        with recursive c(x) as (select 1 union all select x+1 from c where x<3000) insert into t(b) select hex(randomblob(100)) from c;
        update t set b=b||'x' where a%3=0; delete from t where a%5=0;"
}
for mode in wal delete truncate persist; do
    work $mode.db $mode
    [ "$(sqlite3 $mode.db 'pragma integrity_check')" = ok ]
    [ "$(sqlite3 $mode.db 'select count(*) from t')" = 2400 ]
done
# `(counter)` rises by one a transaction; what was acknowledged must be there.
for mode in wal delete; do
    db=$WORK/killed-$mode.db
    sqlite3 "$db" "pragma journal_mode=$mode; create table n(v integer); insert into n values(0);"
    (i=0; while sqlite3 "$db" "pragma synchronous=full; update n set v=v+1;"; do i=$((i + 1)); echo $i >"$SCRATCH/done"; done 2>/dev/null) &
    sleep 1
    cd /
    "$SERVER" kill
    wait
    "$SERVER" start
    cd "$WORK"
    [ "$(sqlite3 "$db" 'pragma integrity_check')" = ok ]
    found=$(sqlite3 "$db" 'select v from n') acknowledged=$(cat "$SCRATCH/done")
    echo "$mode: acknowledged $acknowledged, found $found"
    [ "$acknowledged" -gt 0 ] && [ "$found" -ge "$acknowledged" ] && [ "$found" -le $((acknowledged + 1)) ]
done
