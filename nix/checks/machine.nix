# The least that NixOS wants of a machine, for the checks that evaluate one.
{ lib, ... }:
{
  boot.loader.grub.enable = lib.mkDefault false;
  fileSystems."/" = lib.mkDefault {
    device = "none";
    fsType = "tmpfs";
  };
  system.stateVersion = "26.05";
}
