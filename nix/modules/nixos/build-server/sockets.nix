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

  socket =
    name: address: more:
    let
      unit = {
        description = "build-server: the ${name} address, ${address}";
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
          # At boot an address of the tailnet is not there yet.
          FreeBind = true;
        }
        // more;
      };
      # A switch restarts no socket that changed: under one name nobody would listen at a new
      # address until the machine starts again.
      mark = builtins.substring 0 8 (builtins.hashString "sha256" (builtins.toJSON unit));
    in
    lib.nameValuePair "build-server-${name}-${mark}" unit;
  sockets =
    lib.optional takesWebhooks (socket "public" listen.public { })
    ++ lib.singleton (
      socket "private" listen.private (
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
      )
    );
in
{
  options.services.build-server.socketActivation = mkOption {
    type = types.bool;
    default = true;
    description = ''
      Let systemd open the listeners. To stop the server for longer, stop the sockets too:
      `systemctl stop 'build-server-*.socket' build-server`. Their names end in a mark of what
      stands in them, so that a switch which changes an address opens another.
    '';
  };

  config = lib.mkIf (cfg.enable && cfg.socketActivation) {
    systemd.sockets = lib.listToAttrs sockets;
    # Whoever starts the service starts its sockets first.
    systemd.services.build-server.serviceConfig.Sockets = map (one: "${one.name}.socket") sockets;
  };
}
