# The listeners, opened by systemd: they stay open while the server restarts, so that a
# webhook of that moment waits instead of failing.
{
  config,
  lib,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.build-server;
  inherit (cfg.settings) listen;
  takesWebhooks = cfg.settings.github.webhook != false;

  socket = name: address: more: {
    description = "build-server: the ${name} address";
    wantedBy = [ "sockets.target" ];
    listenStreams = [ (lib.removePrefix "unix:" address) ];
    socketConfig = {
      FileDescriptorName = name;
      Service = "build-server.service";
      # A server that cannot start is not started again and again by the caller that still
      # waits. While it restarts on purpose, callers are kept.
      FlushPending = true;
      SocketUser = cfg.user;
      SocketGroup = cfg.user;
      SocketMode = "0660";
    }
    // more;
  };
in
{
  options.services.build-server.socketActivation = mkOption {
    type = types.bool;
    default = true;
    description = ''
      Let systemd open the listeners. To stop the server for longer, stop the sockets too:
      `systemctl stop 'build-server-*.socket' build-server`.
    '';
  };

  config = lib.mkIf (cfg.enable && cfg.socketActivation) {
    systemd.sockets = lib.mkMerge [
      (lib.mkIf takesWebhooks {
        build-server-public = socket "public" listen.public { };
      })
      {
        build-server-private = socket "private" listen.private (
          # A second wall behind the firewall: the kernel drops what does not come from this
          # machine or from the tailnet's addresses (https://tailscale.com/kb/1015).
          lib.optionalAttrs (!lib.hasPrefix "unix:" listen.private) {
            IPAddressDeny = "any";
            IPAddressAllow = [
              "localhost"
              "100.64.0.0/10"
              "fd7a:115c:a1e0::/48"
            ]
            ++ cfg.allowedAddresses;
          }
        );
      }
    ];
    # Whoever starts the service starts its sockets first.
    systemd.services.build-server.serviceConfig.Sockets =
      lib.optional takesWebhooks "build-server-public.socket" ++ [ "build-server-private.socket" ];
  };
}
