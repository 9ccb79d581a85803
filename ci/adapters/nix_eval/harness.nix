# What a flake has when its home-manager modules are things to build: its own outputs, but
# each of `homeModules`, and of their old name, is the home that nix/harness makes with it.
#
#   harness  the value of nix/harness/flake.nix
#   locked   { NAME = what builtins.fetchTree wants; }: the inputs of nix/harness/flake.lock,
#            as they are in the store
#   system   whose homes
{ harness, locked, system }:
flake:
let
  # As Nix calls the flake of a locked input (its call-flake.nix), which takes care of
  # `follows` here. Nothing is fetched that is not asked for.
  called = name: inputs:
    let
      sourceInfo = builtins.fetchTree locked.${name};
      outputs = (import (sourceInfo.outPath + "/flake.nix")).outputs (inputs // { inherit self; });
      self = outputs // sourceInfo // { inherit inputs outputs sourceInfo; _type = "flake"; };
    in
    self;

  nixpkgs = flake.inputs.nixpkgs or (called "nixpkgs" { });
  home-manager = flake.inputs.home-manager or (called "home-manager" { inherit nixpkgs; });
  homes = (harness.outputs { inherit nixpkgs home-manager; tested = flake; }).lib.homes system;
in
flake.outputs
// { homeModules = homes; }
// (if flake.outputs ? homeManagerModules then { homeManagerModules = homes; } else { })
