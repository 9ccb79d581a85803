# What this machine has of the build server: cache, clients, the tailnet. The options:
# docs/nixos.md of build-server.
{ config, lib, ... }:
let
  machine = import ./machine.nix;
  secrets = if builtins.pathExists ./secrets.nix then import ./secrets.nix else { };
  server = secrets.buildServer or { };
in
{
  # What configuration.nix says of these holds.
  networking.hostName = lib.mkDefault machine.name;
  nixpkgs.hostPlatform = lib.mkDefault machine.system;

  nix.settings.experimental-features = [
    "nix-command"
    "flakes"
  ];

  programs.build-client = {
    enable = true;
    server = server.address or "http://build-server:8000";
  }
  # Nothing is fetched without the cache's key.
  // (
    if server ? publicKey then builtins.removeAttrs server [ "address" ] else { cacheUrl = null; }
  );

  services.bootstrap-services = {
    tailscale.enable = true;
    tailscale.authKeyFile = secrets.tailscale.authKeyFile or null;
    syncthing.openFirewall = true;
  };

  programs.zsh.enable = true;

  assertions = [
    {
      assertion = config.networking.hostName == machine.name;
      message = ''machine.nix calls this machine "${machine.name}", and configuration.nix "${config.networking.hostName}". Write one name in both: nixos-rebuild takes the configuration that is called like the host.'';
    }
  ];
}
