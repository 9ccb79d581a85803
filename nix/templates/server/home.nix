# What is particular about this machine. The options: docs/home-manager.md of build-server.
let
  machine = import ./machine.nix;
in
{
  home = {
    username = machine.user;
    homeDirectory = machine.home;
    # The release of home-manager that this began with; it stays.
    stateVersion = "26.05";
  };

  # Without secrets.nix everything works but what it says.
  bootstrap.machine.secrets =
    if builtins.pathExists ./secrets.nix then import ./secrets.nix else null;

  # What the profile sets is a default; one line is enough to differ:
  # bootstrap.machine.services = [ "tailscale" "syncthing" ];
  # services.bootstrap-services.syncthing.folders.backups.path = "/srv/backups";
}
