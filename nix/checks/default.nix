# What `nix flake check` looks at: the packages with their own checks, the scripts, every
# NixOS module in a machine, every template as it comes. Machines are evaluated to the last
# option and not built; nothing here is imported from a derivation.
{ inputs, pkgs }:
let
  inherit (inputs) self nixpkgs;
  inherit (pkgs) lib;
  inherit (pkgs.stdenv.hostPlatform) system;

  evaluates =
    name: derivation:
    pkgs.runCommand "evaluates-${name}" { } ''
      echo ${builtins.unsafeDiscardStringContext derivation.drvPath} > "$out"
    '';
  machine =
    name: modules:
    let
      host.nixpkgs.hostPlatform = lib.mkDefault system;
      all = [
        ./machine.nix
        host
      ]
      ++ modules;
    in
    evaluates name (nixpkgs.lib.nixosSystem { modules = all; }).config.system.build.toplevel;

  # What a template gives as it comes, with this flake for the one that it names.
  template =
    name:
    let
      path = ../templates + "/${name}";
      flake = import (path + "/flake.nix");
      given = {
        inherit (inputs) nixpkgs home-manager nixos-wsl;
        build-server = self;
        self = outputs // {
          inputs = given;
          outPath = path;
        };
      };
      outputs = flake.outputs (builtins.intersectAttrs (flake.inputs // { self = null; }) given);
    in
    outputs;
  # Those for this system; a machine of another one is for that one to build.
  ofThisSystem = lib.filterAttrs (
    _: configuration: configuration.pkgs.stdenv.hostPlatform.system == system
  );
  homes =
    name:
    lib.mapAttrs' (user: home: {
      name = "home-${name}-${user}";
      value = home.activationPackage;
    }) (ofThisSystem (template name).homeConfigurations);
  hosts =
    kind: configurations:
    lib.mapAttrs' (host: configuration: {
      name = "${kind}-${host}";
      value = evaluates "${kind}-${host}" configuration.config.system.build.toplevel;
    }) (ofThisSystem configurations);
in
{
  inherit (self.packages.${system})
    build-server
    build-client
    system-update
    bootstrap-new-machine
    ;

  nixos-server = machine "server" [
    self.nixosModules.build-server
    ./server.nix
  ];
  nixos-client = machine "client" [
    self.nixosModules.build-client
    ./client.nix
  ];
  nixos-both = machine "both" [
    self.nixosModules.default
    ./server.nix
    ./client.nix
  ];
  nixos-wsl = machine "wsl" [
    inputs.nixos-wsl.nixosModules.default
    self.nixosModules.wsl-host
    { wsl.enable = true; }
  ];

  scripts =
    pkgs.runCommand "shellcheck"
      {
        nativeBuildInputs = [ pkgs.shellcheck ];
        src = import ../packages/source.nix { inherit lib; } [
          ".ci"
          "nix"
          "scripts"
        ];
      }
      ''
        cd "$src"
        grep --recursive --files-with-matches --null --extended-regexp '^#!.*\b(ba)?sh\b' . |
          xargs --null shellcheck
        touch "$out"
      '';
}
// homes "laptop"
// homes "desktop"
// homes "server"
// hosts "template" (template "machine").nixosConfigurations
// hosts "host" self.nixosConfigurations
