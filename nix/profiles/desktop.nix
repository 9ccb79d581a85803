# A desktop: at the mains, with room for what is large.
{ lib, ... }:
let
  inherit (lib) mkDefault;
in
{
  imports = [ ./common.nix ];

  bootstrap.machine = {
    syncthingFolders = mkDefault [
      "documents"
      "photos"
      "music"
      "videos"
    ];
    services = mkDefault [
      "tailscale"
      "syncthing"
    ];
    performanceMode = mkDefault true;
  };
  services.bootstrap-services.syncthing.thisDevice = mkDefault "desktop";
}
