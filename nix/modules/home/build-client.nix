# programs.build-client of a home: bt, bs and bl, and where the server is. The cache needs
# the machine's own configuration as well, or a user whom Nix trusts; what is missing is said.
{
  config,
  lib,
  osConfig,
  pkgs,
  ...
}:
let
  inherit (lib) mkDefault mkOption types;
  cfg = config.programs.build-client;
  ours = import ../nixos/types.nix { inherit lib; };
  toml = pkgs.formats.toml { };

  # "http://build-server:5000" for "http://build-server:8000".
  host = builtins.match "https?://(\\[[^]]*]|[^:/]+)(:[0-9]+)?/?" cfg.server;
  neighbour = if host == null then null else "http://${lib.head host}:5000";
  fetches = cfg.cacheUrl != null && cfg.publicKey != null;

  # As the NixOS module has them, and for the same reasons.
  patience = {
    connect-timeout = 3;
    download-attempts = 1;
    stalled-download-timeout = 15;
    fallback = true;
    narinfo-cache-negative-ttl = 60;
  };
  lines = ''
    extra-substituters = ${cfg.cacheUrl}
    extra-trusted-public-keys = ${cfg.publicKey}
    connect-timeout = ${toString patience.connect-timeout}
    download-attempts = ${toString patience.download-attempts}
    stalled-download-timeout = ${toString patience.stalled-download-timeout}
    fallback = true
    narinfo-cache-negative-ttl = ${toString patience.narinfo-cache-negative-ttl}
  '';
  forNixos = ''programs.build-client = { enable = true; server = "${cfg.server}"; cacheUrl = "${toString cfg.cacheUrl}"; publicKey = "${toString cfg.publicKey}"; };'';
in
{
  options.programs.build-client = {
    enable = lib.mkEnableOption "the clients of build-server: bt, bs, bl";

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
        The key that the cache signs with: `curl -s http://build-server:8000/client.toml`.
        null: no cache.

        Nix takes caches and keys from the machine's configuration, and from a user only when
        it trusts that user as it trusts root. On NixOS use `nixosModules.build-client`. On
        other systems add {file}`~/.config/build-server/nix.conf`, which is written when this
        is set, to {file}`/etc/nix/nix.conf`.
      '';
    };

    nixConf = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether to write the cache and its key into your own {file}`~/.config/nix/nix.conf`.
        It helps when Nix has no daemon, or when you are one of its `trusted-users`; for
        others the daemon ignores it, with a warning at every command.
      '';
    };
  };

  config = lib.mkIf cfg.enable {
    home.packages = [ cfg.package ];

    xdg.configFile = {
      # What `GET /client.toml` gives, but for the repositories: the clients ask for those.
      "build-server/client.toml".source = toml.generate "client.toml" (
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
      "build-server/nix.conf" = lib.mkIf fetches { text = lines; };
    };

    nix = lib.mkIf (fetches && cfg.nixConf) {
      # home-manager wants to know whose nix.conf it is; inside NixOS it knows.
      package = lib.mkIf (osConfig == null) (mkDefault pkgs.nix);
      settings = {
        extra-substituters = [ cfg.cacheUrl ];
        extra-trusted-public-keys = [ cfg.publicKey ];
      }
      // lib.mapAttrs (_: mkDefault) patience;
    };

    home.activation.buildServerCache = lib.mkIf (fetches && !cfg.nixConf && osConfig == null) (
      lib.hm.dag.entryAfter [ "writeBoundary" ] ''
        # By name: on NixOS the file is a link, which grep -r leaves out; and what else is
        # linked to there may be a whole nixpkgs.
        if ! grep -qsF -e ${lib.escapeShellArg cfg.publicKey} "''${NIX_CONF_DIR:-/etc/nix}"/*.conf; then
          noteEcho ${lib.escapeShellArg "Nix does not know the cache ${cfg.cacheUrl} yet, and home-manager cannot tell it."}
          echo "On NixOS write in the machine's configuration, with nixosModules.build-client:"
          echo ${lib.escapeShellArg "  ${forNixos}"}
          echo "Elsewhere run this once, and restart nix-daemon:"
          echo ${lib.escapeShellArg "  sudo tee -a /etc/nix/nix.conf < ${config.xdg.configHome}/build-server/nix.conf"}
        fi
      ''
    );

    assertions = [
      {
        assertion = cfg.publicKey == null || cfg.cacheUrl != null;
        message = ''programs.build-client.publicKey belongs to a cache that is not named. Write programs.build-client.cacheUrl = "http://build-server:5000";'';
      }
    ];
    warnings =
      lib.optional
        (
          fetches
          && !cfg.nixConf
          && osConfig != null
          && !lib.elem cfg.publicKey (osConfig.nix.settings.trusted-public-keys or [ ])
        )
        "Nothing is fetched from ${cfg.cacheUrl}: this machine does not trust its key, and a home cannot say so. Write in the NixOS configuration, with nixosModules.build-client: ${forNixos}";
  };
}
