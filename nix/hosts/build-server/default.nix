# A whole build server on NixOS-WSL: service with pages for the tailnet, cache, Funnel. A
# module, to copy: the flake adds nixos-wsl's, build-server's and wsl-host's. README.md has
# the steps.
{ lib, ... }:
{
  # The name under which the tailnet knows it. The pages are at http://build-server:8000,
  # the first run step by step at http://build-server:8000/setup.
  networking.hostName = "build-server";
  nixpkgs.hostPlatform = lib.mkDefault "x86_64-linux";
  system.stateVersion = "26.05";

  wsl = {
    enable = true;
    defaultUser = "nixos";
  };

  services.tailscale = {
    enable = true;
    # A key of the admin console, tagged "tag:ci" and reusable. Never in this file.
    authKeyFile = "/etc/build-server-secrets/tailscale-auth-key";
    # Here and not in extraSetFlags: later `tailscale up` must name what is not default.
    extraUpFlags = [ "--hostname=build-server" ];
  };

  services.build-server = {
    enable = true;
    settings = {
      public_url = "http://build-server:8000";
      allowed_hosts = [ "build-server.example-tailnet.ts.net" ];
      github.public_webhook_url = "https://build-server.example-tailnet.ts.net/webhook";
      repository = [
        {
          name = "Bullish-Design/nix-terminal";
          branches = [ "dev" ];
          targets = [
            "packages.*"
            "checks.*"
          ];
        }
      ];
    };
    secrets = {
      webhookSecretFile = "/etc/build-server-secrets/webhook";
      githubTokenFile = "/etc/build-server-secrets/github-token";
      # Who is told when a branch breaks: addresses of Apprise (ntfy://…), one per line.
      # notifyUrlsFile = "/etc/build-server-secrets/notify-urls";
    };
    harmonia = {
      enable = true;
      # After the first start: cat /var/lib/build-server-cache/public-key, and write it here.
      # publicKey = "build-server-1:…";
    };
    funnel.enable = true;
    gc.dates = "Sun 03:15";
    # A laptop with 16 GB of which WSL has 8.
    smallMachine = true;
  };

  # Root may, and who administers the machine; never the service.
  nix.settings.trusted-users = [ "root" ];
}
