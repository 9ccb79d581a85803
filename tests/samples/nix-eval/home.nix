# Evaluate home modules as a user's own home-manager would: `alice`, on x86_64-linux.
{
  lib,
  pkgs,
  homeManager,
}:
{
  modules,
  extraSpecialArgs ? { },
}:
let
  person = {
    home.username = lib.mkDefault "alice";
    home.homeDirectory = lib.mkDefault "/home/alice";
    home.stateVersion = lib.mkDefault "26.05";
    manual.manpages.enable = false;
    news.display = "silent";
  };
  evaluated = import (homeManager + "/modules") {
    inherit pkgs lib extraSpecialArgs;
    configuration.imports = modules ++ [ person ];
  };
in
evaluated
// {
  failed = map (one: one.message) (
    builtins.filter (one: !one.assertion) evaluated.config.assertions
  );
  warnings = evaluated.config.warnings;
}
