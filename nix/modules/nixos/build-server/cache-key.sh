#!/usr/bin/env bash
# Make the key pair that the cache signs with, once; and lay its public half where people
# can read it.
#
# KEY_FILE     the secret half          KEY_NAME  its name, when it is made
# PUBLIC_FILE  the public half          KEY_MADE_HERE  1: make it when it is absent
set -o errexit -o nounset -o pipefail

secret=${KEY_FILE:?} name=${KEY_NAME:?} public=${PUBLIC_FILE:?}

say() { printf 'build-server-cache-key: %s\n' "$*" >&2; }

umask 077
if [[ ! -s $secret ]]; then
  if [[ ${KEY_MADE_HERE:-0} != 1 ]]; then
    say "$secret is not there: put the secret key there, or leave services.build-server.harmonia.keyFile out and one is made"
    exit 1
  fi
  new=$(mktemp -d "$(dirname "$secret")/new.XXXXXX")
  trap 'rm -rf "$new"' EXIT
  nix-store --generate-binary-cache-key "$name" "$new/secret" "$new/public"
  sync "$new/secret"
  # In one step, and never over another key: what is signed with that would be worthless.
  mv --no-clobber "$new/secret" "$secret"
  sync "$(dirname "$secret")"
  say "made the key $name"
fi
if [[ ${KEY_MADE_HERE:-0} == 1 ]]; then
  chmod 600 "$secret"
elif [[ $(stat --dereference --format=%a "$secret") != *00 ]]; then
  # Not ours to change, and the unit may not write there.
  say "$secret can be read by others: chmod 600 $secret"
fi

is=$(nix --extra-experimental-features nix-command key convert-secret-to-public <"$secret")
if [[ ${is%%:*} != "$name" ]]; then
  say "the key in $secret is called ${is%%:*}, not $name: clients must trust it by that name"
fi
umask 022
printf '%s\n' "$is" >"$public.new"
mv "$public.new" "$public"
say "clients trust: $is"
