# In place of this file: `nixos-generate-config --show-hardware-config > hardware-configuration.nix`
{ lib, ... }:
{
  nixpkgs.hostPlatform = (import ./machine.nix).system;
  boot.loader.grub.enable = lib.mkDefault false;
  fileSystems."/" = {
    device = "none";
    fsType = "tmpfs";
  };
}
