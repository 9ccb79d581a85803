# services.bootstrap-services of a machine: what the module of the same name for homes cannot
# do. Tailscale's daemon, and the ports of a Syncthing that runs in a home.
{ config, lib, ... }:
let
  inherit (lib) mkDefault mkOption types;
  cfg = config.services.bootstrap-services;
  ours = import ./types.nix { inherit lib; };
in
{
  imports = [
    (lib.mkRemovedOptionModule
      [
        "services"
        "bootstrap-services"
        "tailscale"
        "authKey"
      ]
      ''A key that stands in the configuration can be read by everybody, in the Nix store. Put it into a file and write services.bootstrap-services.tailscale.authKeyFile = "/run/secrets/tailscale";''
    )
  ];

  options.services.bootstrap-services = {
    tailscale = {
      enable = lib.mkEnableOption "Tailscale, to reach the build server and the other machines";

      authKeyFile = mkOption {
        type = types.nullOr ours.secretFile;
        default = null;
        example = "/run/secrets/tailscale";
        description = ''
          File with the key that the machine joins the tailnet with. null: run
          `sudo tailscale up` once.
        '';
      };
    };

    syncthing.openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether the tailnet reaches the Syncthing of a home on this machine: port 22000 of
        Tailscale's interface. Without it machines still meet, through a relay.
      '';
    };
  };

  config = lib.mkMerge [
    (lib.mkIf cfg.tailscale.enable {
      services.tailscale = {
        enable = mkDefault true;
        authKeyFile = mkDefault cfg.tailscale.authKeyFile;
      };
    })

    (lib.mkIf cfg.syncthing.openFirewall {
      networking.firewall.interfaces.${config.services.tailscale.interfaceName} = {
        # Transfers: over TCP, and over QUIC.
        allowedTCPPorts = [ 22000 ];
        allowedUDPPorts = [ 22000 ];
      };
      assertions = [
        {
          assertion = config.services.tailscale.enable;
          message = "services.bootstrap-services.syncthing.openFirewall opens ports for the tailnet, and there is none. Write services.bootstrap-services.tailscale.enable = true;";
        }
      ];
    })
  ];
}
