#!/bin/sh
# Leaves processes behind in every way; each sleeps @SECONDS@, deaf to TERM.
trap '' TERM HUP INT
(setsid sleep @SECONDS@ &)
nohup sleep @SECONDS@ >/dev/null 2>&1 </dev/null &
(trap '' TERM; (sleep @SECONDS@ & ) & ) &
setsid sh -c '(setsid sleep @SECONDS@ </dev/null >/dev/null 2>&1 &) &' &
python3 -c '
import os, time
for _ in range(3):
    if os.fork():
        os._exit(0)
    os.setsid()
os.closerange(0, 100)
os.execvp("sleep", ["sleep", "@SECONDS@"])
' 2>/dev/null
sleep 0.2
echo "left behind: $(pgrep -c sleep 2>/dev/null || echo some)"
mkdir closed && touch closed/file && chmod 0 closed
ln -s / outside
@END@
