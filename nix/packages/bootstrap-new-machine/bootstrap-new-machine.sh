#!/usr/bin/env bash
# Write the files of a new machine; `usage` says how, and with which exit codes it ends.
#
# BOOTSTRAP_TEMPLATES  the directory that has laptop, desktop, server and machine in it
# POWER_SUPPLY         where batteries are listed
set -o errexit -o nounset -o pipefail

usage() {
  cat <<'TEXT'
usage: bootstrap-new-machine [OPTION …] [DIRECTORY]

Asks the build server what a machine has to know, and writes flake.nix, home.nix, machine.nix
and secrets.nix into DIRECTORY (default: ~/.config/home-manager, for a whole NixOS /etc/nixos).
Says what to run next. It may be run again: what is as it should be stays as it is.

  --template NAME       laptop, desktop or server: your home, with home-manager; machine: a
                        whole NixOS with your home in it. By itself: laptop where there is a
                        battery, else desktop
  --server URL          the build server; by itself: as build-client finds it, which on a new
                        machine is http://build-server:8000
  --name NAME           name of the machine (default: its host name)
  --user NAME           who uses it (default: you)
  --home PATH           the home directory (default: yours)
  --auth-key-file PATH  a file that holds a key of Tailscale; the path is written down, the
                        key is not even read
  --offline             do not ask the build server: fill in secrets.nix yourself
  --yes                 replace files that are different; the old ones are kept as FILE.~1~
  --dry-run             say what would be written; write nothing
  --help                this text

Exit codes
  0  written, or nothing to do
  2  usage: arguments, programs or files that are missing
  3  the build server does not answer, or with something that cannot be meant; nothing is written
  4  there are files already that are different, and nobody to ask; nothing is written
TEXT
}

say() { printf '==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
die() {
  local code=$1
  shift
  printf 'bootstrap-new-machine: %s\n' "$*" >&2
  exit "$code"
}
# A value as it may be shown: without control characters, and not for ever.
shown() { LC_ALL=C tr -d '\000-\037\177' <<<"${1:0:100}"; }

directory='' template='' server='' name='' user='' home='' auth_key='' yes=0 offline=0 dry=0

read_arguments() {
  while (($#)); do
    case $1 in
      --template | --server | --name | --user | --home | --auth-key-file)
        [[ -n ${2:-} ]] || die 2 "$1 wants a value; see --help"
        case $1 in
          --template) template=$2 ;;
          --server) server=$2 ;;
          --name) name=$2 ;;
          --user) user=$2 ;;
          --home) home=$2 ;;
          --auth-key-file) auth_key=$2 ;;
        esac
        shift
        ;;
      --offline) offline=1 ;;
      --yes | -y) yes=1 ;;
      --dry-run) dry=1 ;;
      --help | -h)
        usage
        exit 0
        ;;
      -*) die 2 "$(shown "$1") is no option; see --help" ;;
      *)
        [[ -z $directory ]] || die 2 "more than one directory; see --help"
        directory=$1
        ;;
    esac
    shift
  done
}

# What goes into a Nix file is checked here, whoever said it: no quote, no backslash, no $.
must() {
  local value=$1 pattern=$2 sentence=$3
  [[ $value =~ ^($pattern)$ ]] || die 2 "$(shown "$value") $sentence"
}

find_out() {
  home=${home:-$HOME}
  find_template
  if [[ -n ${SUDO_USER:-} && $template != machine ]]; then
    die 2 "this writes the home of $(shown "$SUDO_USER"); run it without sudo"
  fi
  user=${user:-${SUDO_USER:-$(id -un)}}
  if [[ -z $name ]]; then
    name=$(uname -n)
    name=${name%%.*}
  fi
  must "$name" '[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?' \
    'is no name of a machine; write --name NAME with letters, digits and hyphens'
  must "$user" '[A-Za-z_][A-Za-z0-9_.-]{0,63}' 'is no name of a user; write --user NAME'
  must "$home" '/[A-Za-z0-9_./+@-]{1,200}' 'is no home directory that can be written into a flake; write --home PATH'
  if [[ -z $directory ]]; then
    directory=$home/.config/home-manager
    [[ $template != machine ]] || directory=/etc/nixos
  fi
  directory=$(realpath -m -- "$directory")
  must "$directory" '/[A-Za-z0-9_./+@-]{1,400}' 'is no path that Nix takes a flake from; choose another directory'
  if [[ -n $auth_key ]]; then
    must "$auth_key" '/[A-Za-z0-9_./+@-]{1,400}' 'is no absolute path; write --auth-key-file /path/of/a/file'
    [[ $auth_key != /nix/store/* ]] || die 2 "$auth_key is in the store, which everybody can read; put the key elsewhere"
    [[ -f $auth_key ]] || die 2 "$auth_key is no file"
    [[ $(stat -c %a -- "$auth_key") == *00 ]] || die 2 "$auth_key can be read by others: chmod 600 $auth_key"
  fi
  case $(uname -m) in
    x86_64) system=x86_64-linux ;;
    aarch64 | arm64) system=aarch64-linux ;;
    *) die 2 "there are templates for x86_64 and aarch64 only, and this is $(shown "$(uname -m)")" ;;
  esac
  say "$name, $system, for $user: the template $template$why"
}

find_template() {
  why=''
  if [[ -z $template ]]; then
    template=desktop why=' (no battery; --template chooses another)'
    if compgen -G "${POWER_SUPPLY:-/sys/class/power_supply}/BAT*" >/dev/null; then
      template=laptop why=' (there is a battery; --template chooses another)'
    fi
  fi
  case $template in
    laptop | desktop | server | machine) ;;
    *) die 2 "$(shown "$template") is no template; there are laptop, desktop, server and machine" ;;
  esac
  source=${BOOTSTRAP_TEMPLATES:?}/$template
  [[ -e $source/flake.nix ]] || die 2 "$source has no flake.nix: this installation is not whole"
}

# --- the tailnet

look_at_tailscale() {
  local state
  connected=0
  if ! command -v tailscale >/dev/null; then
    say "Tailscale is not installed: on NixOS services.tailscale.enable = true, else https://tailscale.com/download"
    return
  fi
  state=$(tailscale status --json --peers=false 2>/dev/null | jq -r '.BackendState') || state='not running'
  case $state in
    Running)
      connected=1
      say "Tailscale is connected"
      ;;
    NeedsLogin) say "Tailscale is installed, and nobody is logged in: sudo tailscale up" ;;
    NeedsMachineAuth) say "Tailscale waits until somebody approves this machine in the admin console" ;;
    *) say "Tailscale is installed, and does not run: sudo systemctl start tailscaled; sudo tailscale up" ;;
  esac
}

# --- the build server

find_address() {
  local said
  if [[ -z $server ]]; then
    said=$(build-client address --json 2>"$work/said") || true
    server=$(jq -r '.server // empty' <<<"$said") || server=''
    [[ -n $server ]] || die 2 "$(shown "$(<"$work/said")")"
  fi
  if [[ $server != *://* ]]; then
    [[ $server =~ :[0-9]+/?$ ]] || server=${server%/}:8000
    server=http://$server
  fi
  server=${server%/}
  must "$server" 'https?://([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]+])(:[0-9]{1,5})?(/[A-Za-z0-9_./-]*)?' \
    'is no address of a build server; write --server http://build-server:8000'
}

ask_server() {
  local said verdict
  cache_url='' public_key=''
  find_address
  if ((offline)); then
    say "skipped: $server is not asked (--offline)"
    return
  fi
  said=$(curl --silent --show-error --fail --max-time 15 --max-filesize 1000000 --proto '=http,https' \
    --noproxy '*' --output "$work/client.json" "$server/client.json" 2>&1) || {
    ((connected)) || note "(this machine is not on the tailnet)"
    die 3 "$server does not answer: $(shown "${said:-no reason given}"). Is it on? Write --server URL for another one, or --offline"
  }
  # \z: before $ there may be a newline more.
  verdict=$(jq --null-input --raw-output '
    def bad($what): "bad " + $what + ", and is not written down";
    def fits($pattern): type == "string" and test("\\A(" + $pattern + ")\\z");
    def strange: bad("says nothing that a build server says");
    [inputs] | if length != 1 then strange else .[0] |
    if type != "object" or (.repositories | type) != "array" then strange
    elif .cache == null then "none"
    elif (.cache.url | fits("https?://([A-Za-z0-9.-]{1,253}|\\[[0-9A-Fa-f:.]+\\])(:[0-9]{1,5})?(/[A-Za-z0-9_./-]*)?") | not)
      then bad("has a cache.url that is no address")
    elif (.cache.public_key | fits("[A-Za-z0-9._-]{1,100}:[A-Za-z0-9+/]{43}=") | not)
      then bad("has a cache.public_key that is no key (NAME:BASE64)")
    else "cache " + .cache.url + " " + .cache.public_key end end' "$work/client.json" 2>/dev/null) ||
    verdict='bad says nothing that a build server says, and is not written down'
  case $verdict in
    none) say "$server answers, and has no cache: nothing can be fetched from it yet" ;;
    cache*)
      read -r _ cache_url public_key <<<"$verdict"
      say "$server answers; its cache is $cache_url"
      ;;
    *) die 3 "what answers at $server ${verdict#bad }" ;;
  esac
}

# --- the files

stage() {
  local file
  staged=$work/files
  mkdir "$staged"
  # Its README is for those who do by hand what is done here.
  while IFS= read -r -d '' file; do
    mkdir -p -- "$staged/$(dirname -- "$file")"
    install -m 644 -- "$source/$file" "$staged/$file"
  done < <(cd -- "$source" && find . -type f ! -name README.md -printf '%P\0')
  stage_machine >"$staged/machine.nix"
  stage_secrets >"$staged/secrets.nix"
  chmod 644 "$staged/machine.nix"
  chmod 600 "$staged/secrets.nix"
  if [[ $template == machine ]]; then stage_own; fi
}

stage_machine() {
  printf '# What is this machine'\''s own. Written by bootstrap-new-machine.\n{\n'
  printf '  name = "%s";\n  user = "%s";\n' "$name" "$user"
  [[ $template == machine ]] || printf '  home = "%s";\n' "$home"
  printf '  system = "%s";\n}\n' "$system"
}

# The lines of secrets.nix that are known here; what is not is left out, as the file may.
known_lines() {
  printf 'buildServer.address = "%s";\n' "$server"
  [[ -z $public_key ]] || printf 'buildServer.cacheUrl = "%s";\nbuildServer.publicKey = "%s";\n' "$cache_url" "$public_key"
  [[ -z $auth_key ]] || printf 'tailscale.authKeyFile = "%s";\n' "$auth_key"
}

stage_secrets() {
  cat <<'NIX'
# What this machine has to know, and a public repository should not. git ignores this file;
# Nix copies it into its store, which every user of the machine can read: write the paths of
# files that hold keys, never keys. What else may be here: secrets.example.nix.
{
NIX
  known_lines | sed 's/^/  /'
  printf '}\n'
}

# How a machine starts, its network and its users stay as they are.
stage_own() {
  local file=hardware-configuration.nix
  if [[ -e $directory/configuration.nix ]]; then
    rm -f -- "$staged/configuration.nix"
    say "$directory/configuration.nix is the machine's own and stays; what is added is in build-server.nix"
  fi
  if [[ -e $directory/$file ]]; then
    rm -f -- "$staged/$file"
  elif command -v nixos-generate-config >/dev/null; then
    nixos-generate-config --show-hardware-config >"$staged/$file"
  fi
}

# Devices and the like may have been added: it is as it should be when it has our lines.
has_known_lines() {
  local line
  while IFS= read -r line; do
    grep --quiet --fixed-strings --line-regexp -- "  $line" "$1" || return 1
  done < <(known_lines)
}

# Whether this file is to be replaced; without --yes somebody is asked.
replace() {
  local file=$1 answer
  ((!yes)) || return 0
  diff --unified -- "$directory/$file" "$staged/$file" || true
  printf '    %s is different (above: what would change). Replace it? [y/N] ' "$file" >&2
  read -r answer || answer=n
  [[ $answer == [yY]* ]]
}

write_files() {
  local file different=() new=() same=0
  while IFS= read -r -d '' file; do
    [[ ! -d $directory/$file ]] || die 2 "$directory/$file is a directory; move it away"
    if [[ ! -e $directory/$file && ! -L $directory/$file ]]; then
      new+=("$file")
    elif cmp --silent -- "$staged/$file" "$directory/$file" ||
      { [[ $file == secrets.nix ]] && has_known_lines "$directory/$file"; }; then
      same=$((same + 1))
    else
      different+=("$file")
    fi
  done < <(cd -- "$staged" && find . -type f -printf '%P\0' | sort -z)

  if ((dry)); then
    for file in "${new[@]}"; do say "would write $directory/$file"; done
    for file in "${different[@]}"; do say "would ask, and replace $directory/$file"; done
  elif ((${#different[@]} && !yes)) && [[ ! -t 0 ]]; then
    die 4 "these are there already, and different: ${different[*]} (in $directory). Nothing is written. On a terminal you are asked for each; --yes replaces them and keeps the old ones as FILE.~1~"
  else
    for file in "${new[@]}"; do
      put "$file"
      say "wrote $directory/$file"
    done
    for file in "${different[@]}"; do
      if replace "$file"; then
        put "$file"
        say "replaced $directory/$file"
      else
        say "kept $directory/$file"
      fi
    done
  fi
  ((${#new[@]} || ${#different[@]})) || say "all $same files in $directory are as they should be; nothing was changed"
  if ((dry)); then say "nothing was changed"; fi
}

# In one step, with the mode it is to have; what was there gets another name.
put() {
  local file=$1 to=$directory/$1
  mkdir -p -- "$(dirname -- "$to")" 2>/dev/null || true
  [[ -w $(dirname -- "$to") ]] || die 2 "$directory cannot be written by you; choose another directory, or use sudo"
  cp -p -- "$staged/$file" "$to.new"
  mv --no-target-directory --backup=numbered -- "$to.new" "$to"
}

tell_next() {
  local number=0 flake=path:$directory
  next() { number=$((number + 1)) && note "$number. $*"; }
  say "next:"
  ((connected)) || next "join the tailnet: sudo tailscale up"
  if ((offline)); then
    next "write buildServer.cacheUrl and publicKey into $directory/secrets.nix, or run this again without --offline"
  fi
  if ! command -v nix >/dev/null; then next "install Nix: https://nixos.org/download"; fi
  if [[ $template == machine ]]; then
    next "look at $directory/configuration.nix and hardware-configuration.nix: they must be this machine's, with a user $user"
    next "sudo nixos-rebuild switch --flake $flake#$name"
  elif command -v home-manager >/dev/null; then
    next "home-manager switch --flake $flake#$user"
  else
    next "nix --extra-experimental-features 'nix-command flakes' run home-manager/master -- switch --flake $flake#$user"
  fi
  if [[ -n $public_key && $template != machine ]]; then
    next "where this is no NixOS, let Nix trust the cache, and not wait long when it sleeps:"
    note "     sudo tee -a /etc/nix/nix.conf < $home/.config/build-server/nix.conf; sudo systemctl restart nix-daemon"
  fi
  next "the history of your other machines: atuin login"
  next "later, and as often as you like: system-update"
}

read_arguments "$@"
find_out
umask 077
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
look_at_tailscale
ask_server
stage
umask 022
write_files
tell_next
