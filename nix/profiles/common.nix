# What every machine has. A profile only says values, all of them defaults: what a machine
# says itself holds.
{ lib, ... }:
let
  inherit (lib) mkDefault;
in
{
  imports = [ ./machine.nix ];

  programs.bootstrap = {
    enable = mkDefault true;
    buildServer.enable = mkDefault true;
    atuin.enable = mkDefault true;
  };
  programs.terminal.enable = mkDefault true;
}
