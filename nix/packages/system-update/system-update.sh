#!/usr/bin/env bash
# Update a machine; `usage` says how, and with which exit codes it ends.
set -o errexit -o nounset -o pipefail

usage() {
  cat <<'TEXT'
usage: system-update [OPTION …] [DIRECTORY]

Updates the inputs of the flake in DIRECTORY, waits until the build server has built those
revisions that are its business, rebuilds this machine, and removes old generations.

DIRECTORY is where flake.nix is. Without it: /etc/nixos on NixOS, ~/.config/home-manager
elsewhere. The variable SYSTEM_UPDATE_FLAKE names another one.

  --nixos, --home     what to rebuild; by itself: NixOS where nixos-rebuild is there and the
                      flake has nixosConfigurations, else home-manager
  --name NAME         which configuration; by itself: what nixos-rebuild or home-manager take
  --server URL        the build server; by itself: as build-client finds it
  --no-update         rebuild what flake.lock says now
  --no-wait           do not ask the build server
  --no-trigger        wait for builds that there are, ask for none
  --wait-limit TIME   how long to wait for it in all: 90s, 20m, 2h (default: 1h)
  --keep TIME         remove generations that are older: 14d (default: 30d)
  --no-gc             remove none
  --dry-run           say what would be done; nothing is changed, here or on the server
  --help              this text

Exit codes
  0  done; what was skipped is said
  1  the rebuild failed; flake.lock is as it was before
  2  usage: arguments, programs or files that are missing
  3  the build server says that a revision does not build; flake.lock is as it was before
  4  the build server was not ready in time; flake.lock is as it was before
  5  the inputs could not be updated; flake.lock is as it was before
  6  rebuilt, but the old generations could not be removed
A build server that is away, or has not built a revision for reasons of its own, is no
error: it is said, and what is missing is built here.
TEXT
}

say() { printf '==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
die() {
  local code=$1
  shift
  printf 'system-update: %s\n' "$*" >&2
  exit "$code"
}

directory='' kind='' name='' server='' limit=1h keep=30d
update=1 wait=1 trigger=1 collect=1 dry=0

read_arguments() {
  while (($#)); do
    case $1 in
      --nixos | --home) kind=${1#--} ;;
      --name | --server | --wait-limit | --keep)
        [[ -n ${2:-} ]] || die 2 "$1 wants a value; see --help"
        case $1 in
          --name) name=$2 ;;
          --server) server=$2 ;;
          --wait-limit) limit=$2 ;;
          --keep) keep=$2 ;;
        esac
        shift
        ;;
      --no-update) update=0 ;;
      --no-wait) wait=0 ;;
      --no-trigger) trigger=0 ;;
      --no-gc) collect=0 ;;
      --dry-run) dry=1 ;;
      --help | -h)
        usage
        exit 0
        ;;
      -*) die 2 "$1 is no option; see --help" ;;
      *)
        [[ -z $directory ]] || die 2 "$directory or $1? Only one directory can be updated"
        directory=$1
        ;;
    esac
    shift
  done
  [[ $limit =~ ^[1-9][0-9]{0,5}[smh]$ ]] || die 2 "--wait-limit $limit is no time; write 90s, 20m or 2h"
  [[ $keep =~ ^[1-9][0-9]{0,4}d$ ]] || die 2 "--keep $keep is no number of days; write 30d"
  [[ -z $name || $name =~ ^[A-Za-z0-9_][A-Za-z0-9_.@-]*$ ]] || die 2 "--name $name is no name of a configuration"
}

seconds_of() {
  local number=${1%[smh]}
  case $1 in
    *m) echo $((number * 60)) ;;
    *h) echo $((number * 3600)) ;;
    *) echo "$number" ;;
  esac
}

have() { command -v "$1" >/dev/null; }
nix_() { nix --extra-experimental-features 'nix-command flakes' "$@"; }

find_directory() {
  local places=("$HOME/.config/home-manager")
  [[ $kind == home ]] || ! have nixos-rebuild || places=(/etc/nixos "${places[@]}")
  directory=${directory:-${SYSTEM_UPDATE_FLAKE:-}}
  if [[ -z $directory ]]; then
    for directory in "${places[@]}"; do
      [[ ! -e $directory/flake.nix ]] || break
    done
  fi
  [[ -e $directory/flake.nix ]] ||
    die 2 "$directory has no flake.nix; write system-update DIRECTORY, or make one with bootstrap-new-machine"
  # Where the file itself is: /etc/nixos/flake.nix may be a link into a checkout.
  directory=$(dirname -- "$(readlink -f -- "$directory/flake.nix")")
  [[ $directory =~ ^[A-Za-z0-9_./+@-]+$ ]] ||
    die 2 "$directory: Nix takes no flake from a path with such characters; move it"
  lock=$directory/flake.lock
  flake=$directory
  # Git ignores that file, and Nix sees of a repository what git knows; but all of a path.
  if [[ -e $directory/secrets.nix ]]; then flake=path:$directory; fi
}

# What to rebuild with. Asked before anything is changed.
find_kind() {
  if [[ -z $kind ]]; then
    kind=home
    if have nixos-rebuild; then
      kind=nixos
      if have home-manager && ! has_machines; then kind=home; fi
    fi
  fi
  if [[ $kind == nixos ]]; then
    have nixos-rebuild || die 2 "nixos-rebuild is not here: this is no NixOS; write --home"
  else
    have home-manager ||
      die 2 "home-manager is not here: nix run home-manager/master -- init installs it, or write --nixos on NixOS"
  fi
  as_root=()
  if [[ $kind == nixos && $EUID -ne 0 ]]; then as_root=(sudo); fi
  target=$flake${name:+#$name}
}

has_machines() {
  nix_ eval --json --no-write-lock-file "$flake#nixosConfigurations" --apply builtins.attrNames 2>/dev/null |
    jq --exit-status 'length > 0' >/dev/null
}

# --- flake.lock: the former one is put back whenever this ends before the machine is rebuilt.

remember_lock() {
  work=$(mktemp -d)
  changed=0
  if [[ -e $lock ]]; then cp -p -- "$lock" "$work/before"; fi
  trap finish EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

put_back() {
  ((changed)) || return 0
  changed=0
  if [[ -e $work/before ]]; then
    cp -p -- "$work/before" "$lock.new"
    mv -f -- "$lock.new" "$lock"
  else
    rm -f -- "$lock"
  fi
}

finish() {
  put_back
  rm -rf -- "$work"
}

same_lock() {
  if [[ -e $work/before ]]; then cmp --silent -- "$work/before" "$lock"; else [[ ! -e $lock ]]; fi
}

# A flake to update was an argument until 2.19, where inputs became that.
write_lock() {
  local version first
  version=$(nix --version)
  first=$(printf '%s\n' 2.19 "${version##* }" | sort --version-sort | head -n 1)
  if [[ $first == 2.19 ]]; then nix_ flake update --flake "$flake"; else nix_ flake update "$flake"; fi
}

update_inputs() {
  if ((!update)); then
    say "skipped: the inputs stay at what flake.lock says (--no-update)"
    locks=$work/before
  elif ((dry)); then
    say "would update the inputs of $directory"
    locks=$work/locks
    nix_ flake metadata --refresh --recreate-lock-file --no-write-lock-file --json "$flake" 2>"$work/said" >"$work/metadata" || {
      cat -- "$work/said" >&2
      die 5 "the inputs cannot be updated"
    }
    grep -E "^(•| )" "$work/said" || note "they are the newest already"
    jq .locks "$work/metadata" >"$locks"
  else
    say "updating the inputs of $directory"
    [[ -w $directory && (! -e $lock || -w $lock) ]] ||
      die 2 "$lock cannot be written by you; run sudo system-update"
    # From here on, whatever happens in between.
    changed=1
    write_lock || die 5 "the inputs could not be updated; flake.lock is as it was before"
    if same_lock; then
      changed=0
      note "they were the newest already"
    fi
    locks=$lock
  fi
}

# --- the build server

# Sets `address`; fails, having said why, when it does not answer.
find_server() {
  local checks reach
  [[ -z $server ]] || export BUILD_SERVER_URL=$server
  checks=$(build-client --timeout 5 doctor --json 2>"$work/said") || true
  address=$(jq -r '.[]? | select(.name == "config") | .detail | capture("^server = (?<url>[^ ]+) ").url' <<<"$checks") ||
    address=''
  [[ -n $address ]] || die 2 "$(cat -- "$work/said")"
  reach=$(jq -r '.[] | select(.name == "reach" and (.ok | not)) | .detail + "; " + .fix' <<<"$checks")
  if [[ -n $reach ]]; then
    say "skipped: the build server $address $reach"
    note "what it would have built is built here"
    return 1
  fi
}

ask_for_repositories() {
  local url=$address more=()
  if [[ $address == unix:* ]]; then
    more=(--unix-socket "${address#unix:}") url=http://localhost
  fi
  curl --silent --show-error --fail --max-time 10 --max-filesize 1000000 --proto '=http,https' --noproxy '*' \
    "${more[@]}" "$url/client.json" >"$work/client.json" 2>"$work/said"
}

# Prints "REPOSITORY<tab>REVISION<tab>INPUT" for each locked revision of a repository that
# the server builds. A name or a revision that could be anything else is left out.
revisions() {
  jq -rn --slurpfile locks "$locks" --slurpfile client "$work/client.json" '
    # github:o/n, git+ssh://git@github.com/o/n.git, git@github.com:o/n: one form for all.
    def same: tostring | ascii_downcase | sub("^git\\+"; "")
      | sub("^(?<user>[^/@:]+@)?(?<host>[^/:@]+):(?<path>[^/].*)$"; "\(.host)/\(.path)")
      | sub("^[a-z]+://([^/@]*@)?"; "") | sub("[?#].*$"; "") | sub("/+$"; "") | sub("\\.git$"; "");
    ({github: "github.com", gitlab: "gitlab.com", sourcehut: "git.sr.ht"}) as $hosts
    | [$client[0].repositories[]? | select(type == "object" and (.name | type) == "string" and (.url | type) == "string")
        | select(.name | test("\\A[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+\\z"))
        | {name, at: (.url | same)}] as $repositories
    | [$locks[0].nodes // {} | to_entries[] | .key as $input | .value.locked // empty
        | select((.rev | type) == "string" and (.rev | test("\\A[0-9a-f]{40,64}\\z")))
        | .rev as $rev
        | (if $hosts[.type] then "\(.host // $hosts[.type])/\(.owner)/\(.repo)" elif .type == "git" then .url else "" end
            | same) as $at
        | $repositories[] | select(.at == $at and $at != "") | [.name, $rev, ($input | gsub("[^A-Za-z0-9_.-]"; "?"))]]
    | unique_by([.[0], .[1]])[] | @tsv'
}

wait_for_server() {
  local repository revision input deadline count=0
  if ((!wait)); then
    say "skipped: the build server is not asked (--no-wait)"
    return
  fi
  [[ -e $locks ]] || return 0
  find_server || return 0
  if ! ask_for_repositories || ! revisions >"$work/revisions" 2>"$work/said"; then
    say "skipped: $address does not say which repositories it builds: $(head -n 1 -- "$work/said")"
    note "what it would have built is built here"
    return
  fi
  deadline=$((SECONDS + $(seconds_of "$limit")))
  while IFS=$'\t' read -r repository revision input <&3; do
    count=$((count + 1))
    if ((dry)); then
      tell_one
    else
      wait_for_one
    fi
  done 3<"$work/revisions"
  ((count)) || say "the build server builds none of the inputs; nothing to wait for"
}

state_of() { build-client --quiet -R "$repository" status --json=state "$revision" 2>/dev/null; }

tell_one() {
  local found
  found=$(state_of | jq -r .state) || true
  if [[ -n $found ]]; then
    say "would wait for $repository ${revision:0:7} ($input): it is $found there"
  elif ((trigger)); then
    say "would ask for $repository ${revision:0:7} ($input), and wait: it has no build there"
  else
    say "would not wait for $repository ${revision:0:7} ($input): it has no build there"
  fi
}

# One command of the client, within what is left of the time limit. Its words go to stderr.
ask() {
  local left=$((deadline - SECONDS)) code=0
  ((left > 0)) || return 124
  timeout --foreground "$left" build-client -R "$repository" "$@" >&2 || code=$?
  return "$code"
}

# The server's word on whether its cache offers what it built.
tell_fetchable() {
  local summary
  summary=$(build-client --quiet -R "$repository" status --json=summary "$revision" 2>/dev/null | jq -r .summary) ||
    summary=''
  case $summary in
    *' · fetchable') note "built, and ready to be fetched" ;;
    *' · not fetchable yet: '*)
      note "built, but not fetchable yet: ${summary##* · not fetchable yet: }"
      note "what cannot be fetched is built here"
      ;;
    *) note "built; whether it can be fetched is not known: the server asks no cache" ;;
  esac
}

wait_for_one() {
  local what="$repository ${revision:0:7} ($input)" code=0
  say "waiting for $what on $address"
  state_of >"$work/said" || code=$?
  if ((code == 5)) && ((trigger)); then
    note "it has no build there; asking for one"
    code=0
    ask trigger -w "$revision" || code=$?
  elif ((code != 5)); then
    code=0
    ask status -w "$revision" || code=$?
  fi
  case $code in
    0) tell_fetchable ;;
    1)
      note "build-client -R $repository logs $revision shows why"
      die 3 "$what does not build; flake.lock is as it was before, and this machine too"
      ;;
    3 | 7) note "skipped: the server did not build it, for reasons of its own; it is built here" ;;
    4) note "skipped: the server wants a token for that (BUILD_SERVER_TOKEN_FILE); it is built here" ;;
    5) note "skipped: the server has no build of it; it is built here" ;;
    6) note "skipped: the server went away; it is built here" ;;
    8 | 124) die 4 "$what is not built yet (the limit is $limit); run system-update again later, or with --no-wait. flake.lock is as it was before" ;;
    130) exit 130 ;;
    *) note "skipped: build-client ended with $code; it is built here" ;;
  esac
}

# --- the machine

rebuild() {
  local command code=0 kept=''
  if [[ $kind == nixos ]]; then
    command=("${as_root[@]}" nixos-rebuild switch --flake "$target")
  else
    command=(home-manager switch --flake "$target")
  fi
  if ((dry)); then
    say "would run: ${command[*]}"
    return
  fi
  say "rebuilding: ${command[*]}"
  if ((changed)) && mkdir -p -- "$state"; then
    kept=$state/flake.lock
  fi
  "${command[@]}" || code=$?
  if ((code)); then
    if [[ -n $kept ]]; then
      cp -- "$lock" "$kept.failed"
      note "the new flake.lock is kept: cp '$kept.failed' '$lock' takes it again"
    fi
    if [[ $kind == nixos ]]; then
      note "if it is half switched: ${as_root[*]} nixos-rebuild switch --rollback"
    else
      note "if it is half switched: home-manager generations lists what to activate"
    fi
    die 1 "the rebuild failed with exit code $code; flake.lock is as it was before"
  fi
  if [[ -n $kept ]]; then
    if [[ -e $work/before ]]; then
      cp -- "$work/before" "$kept.before"
      note "to go back: cp '$kept.before' '$lock', then system-update --no-update"
    fi
  fi
  changed=0
}

collect_garbage() {
  local command=("${as_root[@]}" nix-collect-garbage --delete-older-than "$keep")
  if ((!collect)); then
    say "skipped: old generations are kept (--no-gc)"
  elif ((dry)); then
    say "would run: ${command[*]}"
  else
    say "removing what is older than $keep: ${command[*]}"
    "${command[@]}" || die 6 "this machine is rebuilt, but its old generations could not be removed"
  fi
}

read_arguments "$@"
have nix || die 2 "nix is not here; install it first: https://nixos.org/download"
state=${XDG_STATE_HOME:-$HOME/.local/state}/system-update
find_directory
find_kind
remember_lock
update_inputs
wait_for_server
rebuild
collect_garbage
if ((dry)); then say "nothing was changed"; else say "done"; fi
