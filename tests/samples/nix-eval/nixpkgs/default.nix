# `import pkgs.path { }`, as home-manager does where a user gave no package set. `lib` beside
# this file is a link that the tests make.
{
  system ? "x86_64-linux",
  overlays ? [ ],
  config ? { },
  ...
}:
import ../packages.nix {
  inherit system overlays;
  derivations = config.derivations or false;
  lib = import ./lib;
  names = builtins.fromJSON (builtins.readFile ../names.json);
}
