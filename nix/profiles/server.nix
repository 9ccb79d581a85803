# A server: without a screen, reached over ssh. Syncthing is off until it is asked for:
# bootstrap.machine.services = [ "tailscale" "syncthing" ];
{ lib, ... }:
let
  inherit (lib) mkDefault;
in
{
  imports = [ ./common.nix ];

  bootstrap.machine = {
    syncthingFolders = mkDefault [
      "dotfiles"
      "backups"
    ];
    services = mkDefault [ "tailscale" ];
    headless = mkDefault true;
  };
  services.bootstrap-services.syncthing.thisDevice = mkDefault "server";
}
