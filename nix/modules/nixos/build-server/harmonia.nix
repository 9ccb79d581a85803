# The binary cache: Harmonia serves this machine's store, signed with a key that is made at
# the first start.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.build-server;
  ours = import ../types.nix { inherit lib; };
  addresses = import ./addresses.nix { inherit lib; };

  directory = "/var/lib/build-server-cache";
  ownKey = "${directory}/secret-key";
  publicFile = "${directory}/public-key";
  bind = "${cfg.listenAddress}:${toString cfg.harmonia.port}";

  cache = {
    enable = true;
    signKeyPaths = [ cfg.harmonia.keyFile ];
    settings = {
      # Before the defaults of Harmonia's module, behind what a machine says.
      bind = lib.mkOverride 900 bind;
      priority = lib.mkOverride 900 cfg.harmonia.priority;
    };
  };
  makeKey = pkgs.writeShellApplication {
    name = "build-server-cache-key";
    runtimeInputs = [
      config.nix.package
      pkgs.coreutils
    ];
    text = builtins.readFile ./cache-key.sh;
  };
in
{
  options.services.build-server.harmonia = {
    enable = lib.mkEnableOption "Harmonia, which serves what was built to the other machines";

    port = mkOption {
      type = types.port;
      default = 5000;
      description = "Port of the cache.";
    };

    keyName = mkOption {
      type = ours.keyName;
      default = "build-server-1";
      description = "Name of the key, when it is made. Another key needs another name.";
    };

    keyFile = mkOption {
      type = ours.secretFile;
      default = ownKey;
      description = ''
        The secret key. The default one is made at the first start; a file elsewhere must be
        there already.
      '';
    };

    publicKey = mkOption {
      type = types.nullOr ours.publicKey;
      default = null;
      example = "build-server-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
      description = ''
        The public half of the key, which clients trust. It is known once the machine has
        started: `cat ${publicFile}`. When it is set, a build is green only if the cache
        offers each output with a signature of this key, and `GET /client.toml` tells it.
      '';
    };

    priority = mkOption {
      type = types.ints.positive;
      default = 50;
      description = ''
        Lower is asked first; cache.nixos.org has 40. With 50 clients ask this machine, which
        may be asleep, only for what the other has not.
      '';
    };
  };

  config = lib.mkIf (cfg.enable && cfg.harmonia.enable) {
    # Since 2026 a table of its own; before, the options stood one level up.
    services.harmonia = if options.services.harmonia ? cache then { inherit cache; } else cache;

    services.build-server.settings.cache = lib.mkIf (cfg.harmonia.publicKey != null) {
      url = lib.mkDefault "http://${addresses.reach cfg.listenAddress}:${toString cfg.harmonia.port}";
      public_key = lib.mkDefault cfg.harmonia.publicKey;
    };

    systemd.services.build-server-cache-key = {
      description = "build-server: key that the cache signs with";
      wantedBy = [ "multi-user.target" ];
      requiredBy = [ "harmonia.service" ];
      before = [ "harmonia.service" ];
      environment = {
        KEY_FILE = cfg.harmonia.keyFile;
        KEY_NAME = cfg.harmonia.keyName;
        PUBLIC_FILE = publicFile;
        KEY_MADE_HERE = if cfg.harmonia.keyFile == ownKey then "1" else "0";
      };
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        ExecStart = lib.getExe makeKey;
        StateDirectory = lib.removePrefix "/var/lib/" directory;
        # The secret in it is 0600, the public half is for everybody.
        StateDirectoryMode = "0755";
        # It writes two files and calls no one.
        ProtectSystem = "strict";
        ProtectHome = "read-only";
        PrivateTmp = true;
        PrivateDevices = true;
        NoNewPrivileges = true;
        RestrictAddressFamilies = [ "AF_UNIX" ];
      };
    };

    assertions = [
      {
        assertion =
          addresses.isUnix cfg.settings.listen.private
          || addresses.portOf cfg.settings.listen.private != cfg.harmonia.port;
        message = "services.build-server.harmonia.port is ${toString cfg.harmonia.port}, which settings.listen.private has already. Write another port for one of them, e.g. services.build-server.harmonia.port = 5000;";
      }
    ];
    warnings = lib.optional (cfg.harmonia.publicKey == null && cfg.settings.cache == null) ''
      services.build-server.harmonia.publicKey is not set, so builds are green without a look at the cache, and clients are not told its key. After the first start run `cat ${publicFile}` on the machine, and write services.build-server.harmonia.publicKey = "…"; with what it prints.'';
  };
}
