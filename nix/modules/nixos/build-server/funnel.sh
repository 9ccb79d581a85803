#!/usr/bin/env bash
# The one way in from the internet: open it, see that it is open and nothing else with it,
# mend it, close it.
#
#   build-server-funnel open|mend|close
#
# FUNNEL_PORT     443, 8443 or 10000        FUNNEL_PATH    /webhook
# FUNNEL_TARGET   http://127.0.0.1:8010/webhook
# FUNNEL_PRIVATE  ports that may never be public, separated by spaces
# FUNNEL_HEALTH   /health of the server, which asks itself from outside; may be empty
# TAILSCALE_WAIT  how many times tailscaled is asked whether it is up, 2 s apart
# RUNTIME_DIRECTORY  keeps the count of looks that found it unreachable
set -o errexit -o nounset -o pipefail

port=${FUNNEL_PORT:?} path=${FUNNEL_PATH:?} target=${FUNNEL_TARGET:?}
private=${FUNNEL_PRIVATE:-}
# Reopened when it was unreachable at two looks in a row, and then at every tenth.
patience=2 again=10

say() { printf 'build-server-funnel: %s\n' "$*" >&2; }
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

# The machine's name in the tailnet. What was set under a former one stays in tailscaled's
# settings, reaches nobody, and cannot be switched off.
own_name() { tailscale status --json --peers=false | jq -r '.Self.DNSName // "" | rtrimstr(".")'; }

# Prints one line: open; closed; "exposed WHAT" when something private is public;
# "taken WHAT" when something else is on our port, which Funnel would make public.
look() {
  local name
  name=$(own_name)
  tailscale funnel status --json | jq -r --arg name "$name" \
    --arg port "$port" --arg path "$path" --arg target "$target" --arg private "$private" '
    (. // {}) as $whole
    # A command that runs in a terminal has a configuration of its own.
    | [$whole, ($whole.Foreground // {} | .[])] as $configs
    | [$configs[] | .AllowFunnel // {} | to_entries[] | select(.value == true) | .key] as $public
    | [$configs[] | .Web // {} | to_entries[] | .key as $at
        | .value.Handlers // {} | to_entries[]
        | {at: $at, path: .key, to: (.value.Proxy // .value.Path // "a text")}] as $web
    | [$configs[] | .TCP // {} | to_entries[] | select(.value.TCPForward // "" | . != "")
        | {at: (":" + .key), path: "", to: .value.TCPForward}] as $tcp
    | ($private | split(" ") | map(select(. != ""))) as $ports
    | def is_public: . as $one | $public | any(endswith($one.at) or . == $one.at);
      def is_private: .to as $to | $ports | any(. as $p | $to | test(":" + $p + "(/.*)?$"));
      def here: .at == $name + ":" + $port or .at == ":" + $port;
      def shown: .at + .path + " -> " + .to;
      [$web[], $tcp[]] as $all
    | [$all[] | select(is_public and is_private)] as $exposed
    | [$all[] | select(here and .path != $path)] as $taken
    | [$all[] | select(here and .path == $path and .to == $target)] as $ours
    | if $exposed != [] then "exposed " + ($exposed[0] | shown)
      elif $taken != [] then "taken " + ($taken[0] | shown)
      elif ($ours | length) == 1 and ($ours[0] | is_public) then "open"
      else "closed" end'
}

switch_on() {
  local said seen
  # Where Funnel is not allowed yet it prints a link, and ends well or waits for ever.
  said=$(timeout 60 tailscale funnel --bg --yes "--https=$port" "--set-path=$path" "$target" 2>&1) || true
  seen=$(look)
  [[ $seen == open ]] && return
  say "Funnel did not open ($seen); tailscale said: ${said:-nothing}"
  die "in the admin console: MagicDNS and HTTPS certificates on, and in the policy file nodeAttrs with attr [\"funnel\"] for this machine; then systemctl restart build-server-funnel"
}

switch_off() { tailscale funnel --yes "--https=$port" "--set-path=$path" off; }

ensure() {
  local seen
  seen=$(look)
  case $seen in
    exposed*)
      local public=${seen#exposed }
      public=${public%% -> *} public=${public%%/*} public=${public##*:}
      tailscale funnel --yes "--https=$public" off || true
      [[ $(look) == exposed* ]] ||
        die "${seen#exposed } was public: port $public is closed now; serve it on another port, without Funnel"
      die "${seen#exposed } is public, and does not close: run tailscale funnel reset"
      ;;
    taken*)
      die "${seen#taken } is on port $port of tailscale serve, and would be public with Funnel: move it to another port, then systemctl restart build-server-funnel"
      ;;
    closed)
      switch_on
      say "open: port $port, only $path"
      ;;
  esac
}

# Whether the server finds that nothing from outside reaches it, or Tailscale but not what is
# behind it. Funnel's own status says open though nothing passes, for instance after a restart
# of tailscaled, and answers 502 to some at random (tailscale #14182, #17892).
unreachable() {
  [[ -n ${FUNNEL_HEALTH:-} ]] || return 1
  # By address, whose name need not be among those that the server answers to.
  curl --silent --fail --max-time 10 --header 'Host: localhost' "$FUNNEL_HEALTH" | jq --exit-status '
    [.checks[]? | select(.name == "funnel" and .ok == false)
      | select(.detail | startswith("not reachable") or contains("finds nobody at its target"))]
    | length > 0' >/dev/null
}

mend() {
  local file=${RUNTIME_DIRECTORY:?}/unreachable count=0
  ensure
  if ! unreachable; then
    rm -f "$file"
    return
  fi
  [[ -s $file ]] && count=$(<"$file")
  count=$((count + 1))
  echo "$count" >"$file"
  if ((count % again == patience)); then
    say "nothing from outside arrives, though Funnel is open: opening it again"
    switch_off || say "it did not close"
    switch_on
  fi
}

close() {
  local seen
  seen=$(look)
  if [[ $seen == open ]]; then
    switch_off
    seen=$(look)
  fi
  [[ $seen != open ]] || die "Funnel did not close: run tailscale funnel reset"
  say "closed: $path on port $port"
}

case ${1:-} in
  open)
    wait_until_up
    ensure
    ;;
  mend) mend ;;
  close) close ;;
  *) die "write open, mend or close" ;;
esac
