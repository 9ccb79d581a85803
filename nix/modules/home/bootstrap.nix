# programs.bootstrap: what every machine of one person has in common. The build server's
# clients under their short names, the scripts that keep a machine up to date, and one
# history of commands for all of them (Atuin).
{
  config,
  lib,
  osConfig,
  pkgs,
  ...
}:
let
  inherit (lib) mkDefault mkOption types;
  cfg = config.programs.bootstrap;
  ours = import ../nixos/types.nix { inherit lib; };
  here = import ../../packages { inherit pkgs; };

  hostAddress = types.strMatching "(\\[[0-9A-Fa-f:.]+]|[A-Za-z0-9._-]+)(:[0-9]+)?" // {
    description = ''name of a host, with a port if it is not 8000: "build-server" or "build-server:9000"'';
    descriptionClass = "noun";
  };
  webAddress = types.strMatching "https?://[^[:space:]\"]+" // {
    description = ''address of an Atuin server, e.g. "https://api.atuin.sh" or "http://build-server:8888"'';
  };
  # What people type, as an address.
  url =
    address:
    if lib.hasInfix "://" address || lib.hasPrefix "unix:" address then
      address
    else if builtins.match ".*:[0-9]+" address != null then
      "http://${address}"
    else
      "http://${address}:8000";

  usual = if osConfig == null then "${config.xdg.configHome}/home-manager" else "/etc/nixos";
  # "path:", because a flake in a git repository does not see files that git ignores, and
  # secrets.nix is one of them.
  flake = lib.escapeShellArg "path:${cfg.flake}";
in
{
  # The one place for the clients; a home that has both modules has it once.
  imports = [ ./build-client.nix ];

  options.programs.bootstrap = {
    enable = lib.mkEnableOption "what all machines have in common: clients, scripts, history";

    scripts = mkOption {
      type = types.listOf types.package;
      default = [
        (pkgs.system-update or here.system-update)
        (pkgs.bootstrap-new-machine or here.bootstrap-new-machine)
      ];
      defaultText = lib.literalExpression "[ pkgs.system-update pkgs.bootstrap-new-machine ]";
      description = "The scripts to have.";
    };

    flake = mkOption {
      type = types.strMatching "/.*" // {
        description = ''absolute path of a directory, in quotes: "/home/alice/machines"'';
      };
      default = usual;
      defaultText = lib.literalMD ''
        {file}`~/.config/home-manager`, where home-manager looks by itself; in NixOS
        {file}`/etc/nixos`'';
      example = "/home/alice/machines";
      description = "Where the flake of this machine is; `rebuild` and `system-update` take it.";
    };

    buildServer = {
      enable = lib.mkEnableOption "the build server's clients bt, bs and bl, and its cache";

      address = mkOption {
        type = types.either ours.serverAddress hostAddress;
        default = "build-server";
        example = "http://builder.example-tailnet.ts.net:8000";
        description = "The server: its name in the tailnet, or an address.";
      };

      cacheUrl = mkOption {
        type = types.nullOr ours.cacheUrl;
        default = null;
        example = "http://build-server:5000";
        description = "Its binary cache. null: port 5000 of the same host.";
      };

      publicKey = mkOption {
        type = types.nullOr ours.publicKey;
        default = null;
        example = "build-server-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        description = "The key of the server's cache; see `programs.build-client.publicKey`.";
      };
    };

    atuin = {
      enable = lib.mkEnableOption "one history of commands on all machines, with Atuin";

      syncServer = mkOption {
        type = webAddress;
        default = "https://api.atuin.sh";
        example = "http://build-server:8888";
        description = ''
          Where histories meet. They are encrypted before they leave the machine. Once on each
          machine: `atuin login`.
        '';
      };

      syncFrequency = mkOption {
        type = types.strMatching "[0-9]+(s|m|h|d)?" // {
          description = ''duration for Atuin such as "5m" or "1h", or "0": after each command'';
        };
        default = "5m";
        example = "1h";
        description = "How often histories are exchanged.";
      };
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        home.packages = cfg.scripts;
        home.shellAliases.rebuild = mkDefault (
          if osConfig == null then
            "home-manager switch --flake ${flake}"
          else
            "sudo nixos-rebuild switch --flake ${flake}"
        );
        # Else it looks where flakes usually are.
        home.sessionVariables = lib.mkIf (cfg.flake != usual) {
          SYSTEM_UPDATE_FLAKE = mkDefault cfg.flake;
        };
        # `rebuild` needs it; in NixOS the machine's own configuration has the home in it.
        programs.home-manager.enable = mkDefault (osConfig == null);
      }

      (lib.mkIf cfg.buildServer.enable {
        programs.build-client = {
          enable = mkDefault true;
          server = mkDefault (url cfg.buildServer.address);
          cacheUrl = lib.mkIf (cfg.buildServer.cacheUrl != null) (mkDefault cfg.buildServer.cacheUrl);
          publicKey = mkDefault cfg.buildServer.publicKey;
        };
        home.shellAliases = {
          bt = mkDefault "build-trigger";
          bs = mkDefault "build-status";
          bl = mkDefault "build-logs";
        };
      })

      (lib.mkIf cfg.atuin.enable {
        programs.atuin = {
          enable = mkDefault true;
          enableZshIntegration = mkDefault true;
          enableBashIntegration = mkDefault true;
          settings = lib.mapAttrs (_: mkDefault) {
            auto_sync = true;
            sync_address = cfg.atuin.syncServer;
            sync_frequency = cfg.atuin.syncFrequency;
            search_mode = "fuzzy";
            filter_mode_shell_up_key_binding = "directory";
            style = "compact";
            inline_height = 20;
            # Commands that are not to be remembered, by their beginning.
            history_filter = [
              "^secret"
              "^password"
            ];
          };
        };
      })
    ]
  );
}
