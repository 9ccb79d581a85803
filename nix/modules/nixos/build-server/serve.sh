#!/usr/bin/env bash
# Let the tailnet in to listeners on loopback, see that it is so, and close again.
#
#   build-server-tailnet open|close KIND=PORT=TARGET…
#
# KIND is http (Tailscale says who asks) or tcp. What is on another port is left alone.
# TAILSCALE_WAIT: how many times tailscaled is asked whether it is up, 2 s apart.
set -o errexit -o nounset -o pipefail

say() { printf 'build-server-tailnet: %s\n' "$*" >&2; }
die() {
  say "$@"
  exit 1
}

wait_until_up() {
  local state=unknown tries=${TAILSCALE_WAIT:-45}
  while ((tries-- > 0)); do
    state=$(tailscale status --json --peers=false 2>/dev/null | jq -r '.BackendState') || state=unknown
    [[ $state == Running ]] && return
    sleep 2
  done
  die "tailscaled is not connected (${state:-unknown}): run tailscale up, or set services.tailscale.authKeyFile"
}

# Prints open, closed, public or taken. What was set under a former name of the machine stays
# in tailscaled's settings, and nobody is let in by it.
look() {
  local kind=$1 port=$2 target=$3 name
  name=$(tailscale status --json --peers=false | jq -r '.Self.DNSName // "" | rtrimstr(".")')
  tailscale serve status --json | jq -r --arg kind "$kind" --arg port "$port" --arg target "$target" --arg name "$name" '
    (. // {}) as $config
    | ($config.TCP[$port]? // null) as $tcp
    | [$config.Web[$name + ":" + $port]?.Handlers // {} | to_entries[]] as $handlers
    | [$config.AllowFunnel // {} | to_entries[] | select(.value and (.key | endswith(":" + $port)))] as $funnels
    | if $funnels != [] then "public"
      elif $tcp == null and $handlers == [] then "closed"
      elif $kind == "tcp" then
        if $tcp.TCPForward == ($target | sub("^tcp://"; "")) then "open" else "taken" end
      elif $tcp.HTTP == true and $handlers == [] then "closed"
      elif $tcp.HTTP == true and ($handlers | length) == 1
        and $handlers[0].key == "/" and $handlers[0].value.Proxy == $target then "open"
      else "taken" end'
}

open_door() {
  local kind=$1 port=$2 target=$3 said
  case $(look "$kind" "$port" "$target") in
    public) die "port $port is public through Funnel; nothing of the tailnet may be there: run tailscale funnel --https=$port off" ;;
    taken) die "tailscale serve has something else on port $port: see tailscale serve status, then tailscale serve --$kind=$port off, or choose another port" ;;
    open) say "port $port is open to the tailnet already" && return ;;
  esac
  said=$(timeout 60 tailscale serve --bg --yes "--$kind=$port" "$target" 2>&1) || true
  [[ $(look "$kind" "$port" "$target") == open ]] ||
    die "port $port did not open to the tailnet; tailscale said: ${said:-nothing}"
  say "port $port is open to the tailnet"
}

close_door() {
  local kind=$1 port=$2 target=$3
  [[ $(look "$kind" "$port" "$target") == open ]] || return 0
  tailscale serve --yes "--$kind=$port" off
  [[ $(look "$kind" "$port" "$target") == closed ]] || die "port $port did not close: see tailscale serve status"
  say "port $port is closed"
}

verb=${1:?open or close}
shift
if [[ $verb == open ]]; then wait_until_up; fi
for door in "$@"; do
  IFS='=' read -r kind port target <<<"$door"
  case $verb in
    open) open_door "$kind" "$port" "$target" ;;
    close) close_door "$kind" "$port" "$target" ;;
    *) die "$verb: write open or close" ;;
  esac
done
