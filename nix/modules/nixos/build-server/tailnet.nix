# Pages, API and cache for the tailnet, and for nobody else: through the firewall on the
# tailnet's interface, or on loopback behind `tailscale serve` where there is no firewall.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.build-server;
  ours = import ../types.nix { inherit lib; };
  addresses = import ./addresses.nix { inherit lib; };
  inherit (cfg.settings.listen) private;
  wsl = config.wsl.enable or false;

  behindServe = cfg.tailscaleServe.enable;
  open = cfg.openFirewall && !addresses.isLoopback private;
  ports =
    lib.optional (!addresses.isUnix private) (addresses.portOf private)
    ++ lib.optional cfg.harmonia.enable cfg.harmonia.port;
  # Of a listener on all addresses the loopback one.
  served = "127.0.0.1:${toString (addresses.portOf private)}";
  doors = [
    # With http, Tailscale says who asks.
    "http=${toString cfg.tailscaleServe.port}=http://${served}"
  ]
  ++ lib.optional cfg.harmonia.enable "tcp=${toString cfg.harmonia.port}=tcp://127.0.0.1:${toString cfg.harmonia.port}";
  serve = pkgs.writeShellApplication {
    name = "build-server-tailnet";
    runtimeInputs = [
      config.services.tailscale.package
      pkgs.coreutils
      pkgs.jq
    ];
    text = builtins.readFile ./serve.sh;
  };
in
{
  options.services.build-server = {
    listenAddress = mkOption {
      type = ours.ipAddress;
      default = if behindServe then "127.0.0.1" else "[::]";
      defaultText = lib.literalMD ''`"127.0.0.1"` with `tailscaleServe`, else `"[::]"`'';
      description = ''
        Address that pages, API and cache listen on. `"[::]"` is every address of the machine:
        the firewall lets in the tailnet alone. Tailscale's own address is not there yet when
        a machine starts: pages and API wait for it, Harmonia's socket fails.
      '';
    };

    openFirewall = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Open the ports of pages, API and cache on the tailnet's interface
        (`services.tailscale.interfaceName`), and on no other.
      '';
    };

    allowedAddresses = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "192.168.1.0/24" ];
      description = ''
        Further addresses that pages and API take connections from, besides this machine and
        the tailnet. Open the firewall for them yourself.
      '';
    };

    tailscaleServe = {
      enable = mkOption {
        type = types.bool;
        default = wsl;
        defaultText = lib.literalMD "true on NixOS-WSL, where the firewall is off";
        description = ''
          Listen on loopback, and let the tailnet in with `tailscale serve`.
        '';
      };
      port = mkOption {
        type = types.port;
        default = 8000;
        description = "Port on the tailnet under which pages and API are served.";
      };
    };
  };

  config = lib.mkIf cfg.enable {
    services.build-server.settings = {
      listen.public = lib.mkDefault "127.0.0.1:8010";
      listen.private = lib.mkDefault "${cfg.listenAddress}:8000";
      public_url = lib.mkIf (config.networking.hostName != "") (
        lib.mkDefault "http://${config.networking.hostName}:${
          toString (
            if behindServe || addresses.isUnix private then
              cfg.tailscaleServe.port
            else
              addresses.portOf private
          )
        }"
      );
    };

    networking.firewall.interfaces = lib.mkIf open {
      ${config.services.tailscale.interfaceName}.allowedTCPPorts = ports;
    };

    systemd.services.build-server-tailnet = lib.mkIf behindServe {
      description = "build-server: pages and cache for the tailnet";
      wantedBy = [ "multi-user.target" ];
      wants = [ "tailscaled.service" ];
      after = [
        "tailscaled.service"
        "tailscaled-autoconnect.service"
      ];
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = "${lib.getExe serve} open ${toString doors}";
        ExecStop = "${lib.getExe serve} close ${toString doors}";
        # `tailscale serve` may wait for somebody to open a link.
        TimeoutStartSec = 180;
        Restart = "on-failure";
        RestartSec = 60;
      };
    };
  };
}
