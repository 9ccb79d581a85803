# The way in from the internet: Tailscale Funnel on one port, for one path. NixOS has no
# option for it, so it is a unit of its own that opens, verifies, mends and closes.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.build-server;
  addresses = import ./addresses.nix { inherit lib; };
  inherit (cfg.settings) github listen;

  funnel = pkgs.writeShellApplication {
    name = "build-server-funnel";
    runtimeInputs = [
      config.services.tailscale.package
      pkgs.coreutils
      pkgs.curl
      pkgs.jq
    ];
    text = builtins.readFile ./funnel.sh;
  };
  asked = github.public_webhook_url != null && github.public_webhook_url != "";
  environment = {
    FUNNEL_PORT = toString cfg.funnel.port;
    FUNNEL_PATH = cfg.funnel.path;
    # The path stands here too: Tailscale takes the mount path off, and without it every
    # path of the listener would be public.
    FUNNEL_TARGET = "http://${listen.public}/webhook";
    FUNNEL_PRIVATE = toString (
      lib.optional (!addresses.isUnix listen.private) (addresses.portOf listen.private)
      ++ lib.optional cfg.harmonia.enable cfg.harmonia.port
    );
    FUNNEL_HEALTH =
      if asked && !addresses.isUnix listen.private then
        "http://${addresses.reach (addresses.hostOf listen.private)}:${toString (addresses.portOf listen.private)}/health"
      else
        "";
  };
in
{
  options.services.build-server.funnel = {
    enable = lib.mkEnableOption "Tailscale Funnel for the webhook: GitHub's way in";

    port = mkOption {
      type = types.enum [
        443
        8443
        10000
      ];
      default = 443;
      description = ''
        Port on the internet, one of the three that Funnel has. Nothing else may be served on
        it: Funnel makes a whole port public.
      '';
    };

    path = mkOption {
      type = types.strMatching "/[A-Za-z0-9._~/-]*[A-Za-z0-9._~-]" // {
        description = ''path that begins with "/" and does not end with one, e.g. "/webhook"'';
      };
      default = "/webhook";
      description = "Path on the internet. It leads to the server's `/webhook`.";
    };
  };

  config = lib.mkIf (cfg.enable && cfg.funnel.enable) {
    systemd.services.build-server-funnel = {
      description = "build-server: the webhook's way in (Tailscale Funnel)";
      wantedBy = [ "multi-user.target" ];
      wants = [
        "network-online.target"
        "tailscaled.service"
      ];
      after = [
        "network-online.target"
        "tailscaled.service"
        "tailscaled-autoconnect.service"
      ];
      inherit environment;
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = "${lib.getExe funnel} open";
        # The settings outlive reboots in tailscaled's state: taken out when this is.
        ExecStop = "${lib.getExe funnel} close";
        # Where Funnel is not allowed yet, the command may wait for ever.
        TimeoutStartSec = 180;
        TimeoutStopSec = 30;
        Restart = "on-failure";
        RestartSec = "2min";
      };
    };

    systemd.services.build-server-funnel-mend = {
      description = "build-server: see that the webhook's way in is open, and nothing else";
      # What was closed on purpose stays closed.
      requisite = [ "build-server-funnel.service" ];
      after = [ "build-server-funnel.service" ];
      inherit environment;
      serviceConfig = {
        Type = "oneshot";
        ExecStart = "${lib.getExe funnel} mend";
        RuntimeDirectory = "build-server-funnel";
        RuntimeDirectoryPreserve = true;
        TimeoutStartSec = 180;
      };
    };

    systemd.timers.build-server-funnel-mend = {
      description = "build-server: look at the webhook's way in every minute";
      wantedBy = [ "build-server-funnel.service" ];
      bindsTo = [ "build-server-funnel.service" ];
      after = [ "build-server-funnel.service" ];
      timerConfig = {
        OnActiveSec = "1min";
        OnUnitInactiveSec = "1min";
        AccuracySec = "10s";
      };
    };
  };
}
