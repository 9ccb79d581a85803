# The options of Harmonia: since 2026 below `services.harmonia.cache`, with the names of
# before as aliases; `services.harmonia` itself in older releases (`old = true`).
{ old }:
{
  lib,
  pkgs,
  options,
  config,
  ...
}:
let
  inherit (lib) mkOption types;
  format = pkgs.formats.toml { };
  cache = {
    enable = lib.mkEnableOption "Harmonia";
    settings = mkOption {
      inherit (format) type;
      default = { };
    };
    signKeyPath = mkOption {
      type = types.nullOr types.path;
      default = null;
    };
    signKeyPaths = mkOption {
      type = types.listOf types.path;
      default = [ ];
    };
  };
  package = mkOption {
    type = types.package;
    default = pkgs.harmonia;
  };
  place = if old then config.services.harmonia else config.services.harmonia.cache;
  renamed =
    name:
    lib.mkRenamedOptionModule
      [ "services" "harmonia" name ]
      [ "services" "harmonia" "cache" name ];
  defaults = {
    bind = lib.mkDefault "[::]:5000";
    max_connection_rate = lib.mkDefault 256;
    priority = lib.mkDefault 50;
    workers = lib.mkDefault 4;
  };
in
{
  imports = if old then [ ] else map renamed (builtins.attrNames cache);
  options.services.harmonia = {
    inherit package;
  }
  // (if old then cache else { inherit cache; });
  config = lib.mkIf place.enable (
    lib.mkMerge [
      {
        systemd.services.harmonia = {
          description = "harmonia binary cache service";
          environment.CONFIG_FILE = format.generate "harmonia.toml" place.settings;
          serviceConfig.LoadCredential = lib.imap0 (
            index: path: "sign-key-${toString index}:${path}"
          ) place.signKeyPaths;
        };
      }
      (
        if old then
          {
            services.harmonia.settings = defaults;
            systemd.services.harmonia.wantedBy = [ "multi-user.target" ];
          }
        else
          {
            services.harmonia.cache.settings = defaults;
            systemd.services.harmonia.requires = [ "harmonia.socket" ];
            systemd.sockets.harmonia = {
              socketConfig.ListenStream = place.settings.bind;
              wantedBy = [ "sockets.target" ];
            };
          }
      )
    ]
  );
}
