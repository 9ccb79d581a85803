# In place of this file: `nixos-generate-config --show-hardware-config > hardware-configuration.nix`
{
  nixpkgs.hostPlatform = (import ./machine.nix).system;
  fileSystems."/" = {
    device = "none";
    fsType = "tmpfs";
  };
}
