# A laptop: runs on its battery, is often away.
{ lib, ... }:
let
  inherit (lib) mkDefault;
in
{
  imports = [ ./common.nix ];

  bootstrap.machine = {
    syncthingFolders = mkDefault [
      "documents"
      "code"
      "dotfiles"
    ];
    services = mkDefault [
      "tailscale"
      "syncthing"
    ];
    lowPowerMode = mkDefault true;
  };
  services.bootstrap-services.syncthing.thisDevice = mkDefault "laptop";
}
