# The machine's own: how it starts, its network, who uses it. The installer of NixOS has made
# such a file, /etc/nixos/configuration.nix: that one belongs here, in place of this.
let
  machine = import ./machine.nix;
in
{
  imports = [ ./hardware-configuration.nix ];

  # For a machine with UEFI.
  boot.loader.systemd-boot.enable = true;
  boot.loader.efi.canTouchEfiVariables = true;

  networking.networkmanager.enable = true;

  # `sudo passwd` gives a password.
  users.users.${machine.user} = {
    isNormalUser = true;
    extraGroups = [
      "wheel"
      "networkmanager"
    ];
  };

  # The release of NixOS that this began with; it stays.
  system.stateVersion = "26.05";
}
