# services.build-server.settings: the configuration file as options. Names, defaults and
# meanings come from the program itself (settings.json, which a test compares); what is not
# set is not written, so the program's own defaults hold.
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
  toml = pkgs.formats.toml { };
  keys = lib.importJSON ./settings.json;

  typeOf =
    key:
    {
      switch = types.bool;
      number = types.ints.unsigned;
      list = types.listOf types.str;
      choice = types.enum key.values;
      file = ours.secretFile;
      files = types.either ours.secretFile (types.listOf ours.secretFile);
      inherit (ours) duration size;
      text = types.str;
    }
    .${key.kind};
  # Of a table its own keys; of the whole file those without a dot.
  within =
    table:
    lib.mapAttrs' (path: key: {
      name = lib.removePrefix table path;
      value = key;
    }) (lib.filterAttrs (path: _: lib.hasPrefix table path && leaf (lib.removePrefix table path)) keys);
  leaf = name: name != "" && !lib.hasInfix "." name;

  optionOf =
    table: name: key:
    let
      required = !(key ? default) && table != "";
      described = {
        description = "${key.meaning} See docs/configuration.md.";
      };
    in
    if key.kind == "tables" then
      mkOption (described // {
        type = types.listOf (tableType "${name}.");
        default = [ ];
      })
    else if key.kind == "table" then
      mkOption (
        described
        // (
          # Its presence alone means something.
          if name == "cache" then
            {
              type = types.nullOr (tableType "${name}.");
              default = null;
            }
          else
            {
              type = tableType "${name}.";
              default = { };
            }
        )
      )
    else if required then
      mkOption (described // { type = typeOf key; })
    else
      mkOption (
        described
        // {
          type = types.nullOr (typeOf key);
          default = null;
          defaultText = lib.literalMD "null, which leaves it at `${builtins.toJSON key.default}`";
        }
      );
  tableType =
    table:
    types.submodule {
      # A key of a newer program passes; `check-config` has the last word on it.
      freeformType = toml.type;
      options = lib.mapAttrs (optionOf table) (within table);
    };

  # TOML has no null, and an empty table says nothing.
  written =
    value:
    if builtins.isAttrs value then
      lib.filterAttrs (_: inner: inner != null && inner != { }) (lib.mapAttrs (_: written) value)
    else if builtins.isList value then
      map written value
    else
      value;

  unchecked = toml.generate "build-server.toml" (written cfg.settings);
  # The program's own judgement, and its own words, while the system is built: a wrong key
  # never reaches the machine.
  checked =
    pkgs.runCommand "build-server-checked.toml"
      {
        nativeBuildInputs = [ cfg.package ];
        passthru = { inherit unchecked; };
      }
      ''
        cp ${unchecked} config.toml
        build-server check-config --without-secrets --config config.toml
        cp config.toml "$out"
      '';
in
{
  options.services.build-server = {
    settings = mkOption {
      type = tableType "";
      default = { };
      example = lib.literalExpression ''
        {
          public_url = "http://builder.example-tailnet.ts.net:8000";
          build.parallel = 2;
          repository = [
            {
              name = "owner/name";
              branches = [ "dev" ];
            }
          ];
        }
      '';
      description = ''
        The configuration file, as in docs/configuration.md. Values are typed here, and the
        whole file is judged by `build-server check-config` while the system is built.
        Secrets have no place in it: see `secrets`.
      '';
    };

    checkConfig = mkOption {
      type = types.bool;
      default = pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform;
      defaultText = lib.literalMD "true, unless the system is built for another kind of machine";
      description = "Have the program judge the configuration while the system is built.";
    };

    configFile = mkOption {
      type = types.path;
      readOnly = true;
      default = if cfg.checkConfig then checked else unchecked;
      defaultText = lib.literalMD "the file made from `settings`";
      description = "The configuration file that the service reads, made from `settings`.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      (
        let
          unknown = lib.subtractLists (builtins.attrNames (within "")) (builtins.attrNames cfg.settings);
        in
        {
          assertion = unknown == [ ];
          message = ''
            services.build-server.settings.${lib.head (unknown ++ [ "" ])}: there is no such key or table at the top of the configuration. Write one of ${lib.concatStringsSep ", " (builtins.attrNames (within ""))}; what they mean is in docs/configuration.md.'';
        }
      )
      {
        assertion = cfg.settings.repository != [ ];
        message = ''services.build-server.settings.repository is empty, so there is nothing to build. Write e.g. services.build-server.settings.repository = [ { name = "owner/name"; } ];'';
      }
    ];

    # Where `doctor` and the other commands look, when somebody runs them by hand.
    environment.etc."build-server/config.toml".source = cfg.configFile;
  };
}
