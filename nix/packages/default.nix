# The packages of this project, by their names, on top of a package set. Used by the flake,
# by the overlay, and by the modules for who imports them without the overlay.
{ pkgs }:
let
  callPackage = pkgs.lib.callPackageWith (pkgs // packages);
  client = verb: short: callPackage ./build-client/verb.nix { inherit verb short; };
  packages = {
    build-server = callPackage ./build-server { };
    build-client = callPackage ./build-client { };
    build-trigger = client "trigger" "bt";
    build-status = client "status" "bs";
    build-logs = client "logs" "bl";
    system-update = callPackage ./system-update { };
    bootstrap-new-machine = callPackage ./bootstrap-new-machine { };
  };
in
packages
