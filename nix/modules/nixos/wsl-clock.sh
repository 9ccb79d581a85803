#!/usr/bin/env bash
# After Windows slept the clock of WSL2 is late. The hardware clock of the virtual machine is
# Windows' own; where the two differ by more than two seconds, ours is set.
#
# RTC: the hardware clock's directory below /sys
set -o errexit -o nounset -o pipefail

rtc=${RTC:-/sys/class/rtc/rtc0}
if [[ ! -r $rtc/since_epoch ]]; then
  echo "wsl-clock: there is no hardware clock in $rtc; nothing is done" >&2
  exit 0
fi
ours=$(date +%s)
theirs=$(<"$rtc/since_epoch")
late=$((theirs - ours))
if ((late > 2 || late < -2)); then
  hwclock --hctosys --utc
  echo "wsl-clock: the clock was $late s late, and is set" >&2
fi
