# The home of the machine's user. The options: docs/home-manager.md of build-server.
let
  secrets = if builtins.pathExists ./secrets.nix then import ./secrets.nix else null;
in
{
  # The release of home-manager that this began with; it stays.
  home.stateVersion = "26.05";

  # The key that joins the tailnet is for the machine, in build-server.nix.
  bootstrap.machine.secrets =
    if secrets == null then null else builtins.removeAttrs secrets [ "tailscale" ];
}
