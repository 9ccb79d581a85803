# programs.build-client: a machine that fetches what the build server built, and has bt, bs
# and bl. A server that sleeps costs it seconds.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkDefault mkOption types;
  cfg = config.programs.build-client;
  ours = import ./types.nix { inherit lib; };
  toml = pkgs.formats.toml { };

  # "http://build-server:5000" for "http://build-server:8000".
  host = builtins.match "https?://(\\[[^]]*]|[^:/]+)(:[0-9]+)?/?" cfg.server;
  neighbour = if host == null then null else "http://${lib.head host}:5000";

  withPriority =
    url: priority:
    url
    + lib.optionalString (priority != null) (
      (if lib.hasInfix "?" url then "&" else "?") + "priority=${toString priority}"
    );
  fetches = cfg.cacheUrl != null && cfg.publicKey != null;
  caches =
    lib.optional fetches {
      url = cfg.cacheUrl;
      inherit (cfg) publicKey priority;
    }
    ++ cfg.extraCaches;
in
{
  options.programs.build-client = {
    enable = lib.mkEnableOption "the clients of build-server, and its cache";

    package = mkOption {
      type = types.package;
      default = pkgs.build-client or (import ../../packages { inherit pkgs; }).build-client;
      defaultText = lib.literalExpression "pkgs.build-client";
      description = "The package that has bt, bs, bl and build-client.";
    };

    server = mkOption {
      type = ours.serverAddress;
      default = "http://build-server:8000";
      example = "http://builder.example-tailnet.ts.net:8000";
      description = "Where the server's pages and API are.";
    };

    cacheUrl = mkOption {
      type = types.nullOr ours.cacheUrl;
      default = neighbour;
      defaultText = lib.literalMD "port 5000 of the server's host";
      example = "http://build-server:5000";
      description = "The server's binary cache. null: fetch nothing from it.";
    };

    publicKey = mkOption {
      type = types.nullOr ours.publicKey;
      default = null;
      example = "build-server-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
      description = ''
        The key that the cache signs with: `curl -s http://build-server:8000/client.toml`, or
        `cat /var/lib/build-server-cache/public-key` on the server. Nix takes nothing from a
        cache that is not signed with a key it trusts.
      '';
    };

    priority = mkOption {
      type = types.nullOr types.ints.positive;
      default = null;
      example = 30;
      description = ''
        Lower is asked first, cache.nixos.org has 40. null: what the cache itself says; that of
        the server's module is 50, so that a server that sleeps is asked last.
      '';
    };

    extraCaches = mkOption {
      type = types.listOf (
        types.submodule {
          options = {
            url = mkOption {
              type = ours.cacheUrl;
              description = "Address of the cache.";
            };
            publicKey = mkOption {
              type = ours.publicKey;
              description = "The key that it signs with.";
            };
            priority = mkOption {
              type = types.nullOr types.ints.positive;
              default = null;
              description = "Lower is asked first. null: what the cache itself says.";
            };
          };
        }
      );
      default = [ ];
      example = lib.literalExpression ''
        [
          {
            url = "https://nix-community.cachix.org";
            publicKey = "nix-community.cachix.org-1:mB9FSh9qf2dCimDSUo8Zy7bkq5CX+/rkCWyvRCYg3Fs=";
          }
        ]
      '';
      description = "Further caches, asked after the server's when they have the same priority.";
    };

    connectTimeout = mkOption {
      type = types.ints.positive;
      default = 3;
      description = "Seconds to wait for a connection to any cache. Nix's own default is 15.";
    };

    downloadAttempts = mkOption {
      type = types.ints.positive;
      default = 1;
      description = ''
        How often a download is tried. Nix's own default is 5: a server that sleeps then costs
        `5 × connectTimeout` and pauses, a quarter of a minute, for each command. The price of
        1: a download that breaks off, from any cache, is not repeated; the next cache is
        asked, or it is built here. On a bad line write 3 or 5.
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];

    nix.settings = {
      # Nix asks by priority; among equals in this order.
      substituters = map (cache: withPriority cache.url cache.priority) caches;
      trusted-public-keys = lib.unique (map (cache: cache.publicKey) caches);
      connect-timeout = mkDefault cfg.connectTimeout;
      download-attempts = mkDefault cfg.downloadAttempts;
      # A cache that takes the connection and then hangs: Nix's own default is five minutes.
      stalled-download-timeout = mkDefault 15;
      # A cache that goes away in the middle: build it here.
      fallback = mkDefault true;
      # Who asked while the server still built must not wait for Nix's own default, an hour
      # in which it takes the cache's "no" for granted.
      narinfo-cache-negative-ttl = mkDefault 60;
    };

    # What `GET /client.toml` gives, but for the repositories: the clients ask for those.
    environment.etc."build-server/client.toml".source = toml.generate "client.toml" (
      {
        inherit (cfg) server;
      }
      // lib.optionalAttrs fetches {
        cache = {
          url = cfg.cacheUrl;
          public_key = cfg.publicKey;
        };
      }
    );

    assertions = [
      {
        assertion = cfg.publicKey == null || cfg.cacheUrl != null;
        message = ''programs.build-client.publicKey belongs to a cache that is not named. Write programs.build-client.cacheUrl = "http://build-server:5000";'';
      }
      {
        assertion = lib.allUnique (map (cache: cache.url) caches);
        message = "programs.build-client.extraCaches names a cache twice, or the server's own: keep one of each.";
      }
    ];
    warnings = lib.optional (cfg.cacheUrl != null && cfg.publicKey == null) ''
      programs.build-client.publicKey is not set, so nothing is fetched from ${cfg.cacheUrl}. Write programs.build-client.publicKey = "build-server-1:…"; with the key that `cat /var/lib/build-server-cache/public-key` shows on the server, or programs.build-client.cacheUrl = null;'';
  };
}
