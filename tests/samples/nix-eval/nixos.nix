# Evaluate NixOS modules against stand-ins for the options of NixOS that they may set. An
# option that nixos-options.nix does not declare is an error, as a misspelt one would be.
{
  lib,
  packagesFor,
  nixosWsl,
}:
{
  modules,
  specialArgs ? { },
  wsl ? false,
  oldHarmonia ? false,
}:
let
  wslModules = if nixosWsl == null then ./nixos-wsl.nix else nixosWsl + "/modules";
  evaluated = lib.evalModules {
    class = "nixos";
    modules = [
      (import ./nixos-options.nix { inherit packagesFor; })
      (import ./nixos-harmonia.nix { old = oldHarmonia; })
    ]
    ++ lib.optional wsl wslModules
    ++ modules;
    specialArgs = {
      modulesPath = toString ./nixpkgs/nixos/modules;
      utils = import ./nixos-utils.nix { inherit lib; };
    }
    // specialArgs;
  };
in
evaluated
// {
  inherit (evaluated._module.args) pkgs;
  failed = map (one: one.message) (
    builtins.filter (one: !one.assertion) evaluated.config.assertions
  );
  warnings = evaluated.config.warnings;
}
