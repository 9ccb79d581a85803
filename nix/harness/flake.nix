# Builds a flake that exports only home-manager modules: each module is imported into the
# home of a made-up user, and what is built is the activation package of that home. By hand:
#
#   nix build 'path:nix/harness#default' --override-input tested git+file:///some/flake
#
# build-server does the same for `harness = "home-manager"`. It calls `outputs` itself, with
# the text of this file, so nothing is imported here from beside it.
{
  description = "A home for each home-manager module of a flake, to test it with";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixpkgs-unstable";
    home-manager = {
      url = "github:nix-community/home-manager";
      inputs.nixpkgs.follows = "nixpkgs";
    };
    # The flake to test is always given; this is only what `--override-input` replaces.
    tested.follows = "";
  };

  outputs =
    inputs@{ tested, ... }:
    let
      # With inputs of these names the flake says itself what it is made for.
      inherit (inputs // (tested.inputs or { })) nixpkgs home-manager;

      modules = (tested.homeManagerModules or { }) // (tested.homeModules or { });

      # The least that a home needs, and less of what only costs time. A module may say
      # otherwise.
      person =
        { config, lib, ... }:
        {
          home.username = lib.mkDefault "user";
          home.homeDirectory = lib.mkDefault "/home/user";
          home.stateVersion = lib.mkDefault config.home.version.release;
          # Which home-manager goes with which nixpkgs is not what is tested.
          home.enableNixpkgsReleaseCheck = lib.mkDefault false;
          manual.manpages.enable = lib.mkDefault false;
          news.display = lib.mkDefault "silent";
        };

      home =
        system: module:
        (home-manager.lib.homeManagerConfiguration {
          pkgs = nixpkgs.legacyPackages.${system};
          modules = [
            module
            person
          ];
        }).activationPackage;

      homes =
        system:
        if builtins.attrNames modules == [ ] then
          throw "this flake exports no homeModules (nor homeManagerModules), and the home-manager harness builds nothing else: export homeModules.default, or set harness = \"\""
        else
          builtins.mapAttrs (_: home system) modules;
    in
    {
      packages = {
        x86_64-linux = homes "x86_64-linux";
        aarch64-linux = homes "aarch64-linux";
      };

      # For any system: the home of each module, as `packages` has it.
      lib.homes = homes;
    };
}
