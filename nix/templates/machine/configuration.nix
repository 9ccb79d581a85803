# The machine. The options: docs/nixos.md of build-server.
let
  machine = import ./machine.nix;
  secrets = if builtins.pathExists ./secrets.nix then import ./secrets.nix else { };
  server = secrets.buildServer or { };
in
{
  networking.hostName = machine.name;
  # The release of NixOS that this began with; it stays.
  system.stateVersion = "26.05";
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
  users.users.${machine.user} = {
    isNormalUser = true;
    extraGroups = [ "wheel" ];
  };
}
