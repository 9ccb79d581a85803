# bootstrap.machine: what kind of machine this is, and what follows from it for a home.
# Everything that follows is a default of another option. Used by the profiles beside.
{
  config,
  lib,
  osConfig,
  ...
}:
let
  inherit (lib) mkDefault mkOption types;
  cfg = config.bootstrap.machine;
  services = config.services.bootstrap-services;
  has = name: lib.elem name cfg.services;

  switch =
    description:
    mkOption {
      type = types.bool;
      default = false;
      inherit description;
    };
  text = mkOption {
    type = types.nullOr types.str;
    default = null;
    description = "See secrets.example.nix of a template.";
  };
  whenSaid = value: lib.mkIf (value != null) (mkDefault value);

  # Folders that a profile can choose from, besides those of the services module.
  catalogue = {
    code = "~/code";
    photos = "~/Pictures";
    music = "~/Music";
    videos = "~/Videos";
    backups = "~/backups";
  };
  choices = lib.unique (
    [
      "documents"
      "dotfiles"
    ]
    ++ lib.attrNames catalogue
    ++ cfg.syncthingFolders
  );
  user = config.home.username;
  lingers = osConfig != null && (osConfig.users.users.${user}.linger or false) == true;
  staysNot = "The services of this home stop when ${user} logs out.";
in
{
  imports = [
    ../modules/home/bootstrap.nix
    ../modules/home/build-client.nix
    ../modules/home/services.nix
    ../modules/home/terminal.nix
  ];

  options.bootstrap.machine = {
    lowPowerMode = switch ''
      For batteries. Atuin exchanges histories every hour; Syncthing looks through its folders
      once a day (changes it hears of at once), one folder and one file at a time, at the
      lowest priority.
    '';
    performanceMode = switch ''
      For machines that are at the mains and seldom idle for long. Atuin exchanges histories
      every minute; Syncthing works at normal priority and on all folders at once.
    '';
    headless = switch ''
      For machines without a screen: no tray, no fonts, no dconf, no Wayland clipboard in
      Neovim; tmux, for work over ssh; and a note when services would stop at log-out.
    '';

    services = mkOption {
      type = types.listOf (
        types.enum [
          "syncthing"
          "tailscale"
        ]
      );
      default = [ "tailscale" ];
      example = [
        "syncthing"
        "tailscale"
      ];
      description = "Which of `services.bootstrap-services` run. Syncthing waits for devices.";
    };

    syncthingFolders = mkOption {
      type = types.listOf types.str;
      default = [
        "documents"
        "dotfiles"
      ];
      description = ''
        Which of the default folders this machine has: ${lib.concatStringsSep ", " choices}.
        Its own are `services.bootstrap-services.syncthing.folders`.
      '';
    };

    secrets = mkOption {
      type = types.nullOr (
        types.submodule {
          options = {
            buildServer = {
              address = text;
              cacheUrl = text;
              publicKey = text;
            };
            atuin.syncServer = text;
            tailscale.authKeyFile = text;
            syncthing = {
              deviceId = text;
              devices = mkOption {
                type = types.attrsOf types.anything;
                default = { };
                description = "The other machines: `services.bootstrap-services.syncthing.devices`.";
              };
            };
          };
        }
      );
      default = null;
      example = lib.literalExpression "import ./secrets.nix";
      description = ''
        What a machine has to know and a public repository should not. Keys do not belong
        here, only the paths of files that hold them: Nix copies this into its store.
      '';
    };
  };

  config = lib.mkMerge [
    {
      services.bootstrap-services = {
        tailscale = {
          enable = mkDefault (has "tailscale");
          tray = mkDefault (has "tailscale" && !cfg.headless);
        };
        syncthing = {
          # Without devices it would forget those that it shares with now.
          enable = mkDefault (has "syncthing" && services.syncthing.devices != { });
          defaultFolders = lib.mkMerge [
            (lib.mapAttrs (_: path: {
              path = mkDefault path;
              devices = mkDefault [
                "laptop"
                "desktop"
                "server"
              ];
            }) catalogue)
            (lib.genAttrs choices (name: {
              enable = mkDefault (lib.elem name cfg.syncthingFolders);
            }))
          ];
        };
      };

      home.activation.syncthingDevices =
        lib.mkIf (has "syncthing" && services.syncthing.devices == { })
          (
            lib.hm.dag.entryAfter [ "writeBoundary" ] ''
              noteEcho "Syncthing is off: no other machine is known."
              echo "Write their IDs into secrets.nix, as secrets.example.nix shows it. Is it there?"
              echo "A flake in a git repository sees no files that git ignores, but with path: it does:"
              echo ${lib.escapeShellArg "  home-manager switch --flake path:${config.programs.bootstrap.flake}"}
            ''
          );

      assertions = [
        {
          assertion = !(cfg.lowPowerMode && cfg.performanceMode);
          message = "bootstrap.machine.lowPowerMode and bootstrap.machine.performanceMode are both on. Write false for one of them.";
        }
      ];
    }

    (lib.mkIf (cfg.secrets != null) {
      programs.bootstrap = {
        buildServer.address = whenSaid cfg.secrets.buildServer.address;
        buildServer.cacheUrl = whenSaid cfg.secrets.buildServer.cacheUrl;
        buildServer.publicKey = whenSaid cfg.secrets.buildServer.publicKey;
        atuin.syncServer = whenSaid cfg.secrets.atuin.syncServer;
      };
      services.bootstrap-services = {
        tailscale.authKeyFile = whenSaid cfg.secrets.tailscale.authKeyFile;
        syncthing.devices = lib.mapAttrs (_: mkDefault) cfg.secrets.syncthing.devices;
      };
    })

    (lib.mkIf cfg.lowPowerMode {
      programs.bootstrap.atuin.syncFrequency = mkDefault "1h";
      services.bootstrap-services.syncthing.everyFolder = lib.mapAttrs (_: mkDefault) {
        rescanIntervalS = 24 * 60 * 60;
        hashers = 1;
        scanProgressIntervalS = -1;
      };
      services.syncthing.settings.options = lib.mapAttrs (_: mkDefault) {
        maxFolderConcurrency = 1;
        progressUpdateIntervalS = -1;
        reconnectionIntervalS = 300;
        setLowPriority = true;
      };
      systemd.user.services = lib.mkIf config.services.syncthing.enable {
        syncthing.Service = lib.mapAttrs (_: mkDefault) {
          Nice = 19;
          IOSchedulingClass = "idle";
        };
      };
    })

    # With both on, only the assertion is to speak.
    (lib.mkIf (cfg.performanceMode && !cfg.lowPowerMode) {
      programs.bootstrap.atuin.syncFrequency = mkDefault "1m";
      services.syncthing.settings.options = lib.mapAttrs (_: mkDefault) {
        # No limit; 0 would be as many as there are processors.
        maxFolderConcurrency = -1;
        setLowPriority = false;
      };
    })

    (lib.mkIf cfg.headless {
      dconf.enable = mkDefault false;
      fonts.fontconfig.enable = mkDefault false;
      programs.neovim.waylandSupport = mkDefault false;
      programs.tmux.enable = mkDefault true;

      home.activation.linger = lib.mkIf (osConfig == null && config.services.syncthing.enable) (
        lib.hm.dag.entryAfter [ "writeBoundary" ] ''
          if [ ! -e ${lib.escapeShellArg "/var/lib/systemd/linger/${user}"} ]; then
            noteEcho ${lib.escapeShellArg staysNot}
            echo "On NixOS write users.users.${user}.linger = true; elsewhere run:"
            echo "  sudo loginctl enable-linger ${user}"
          fi
        ''
      );
      warnings =
        lib.optional (osConfig != null && config.services.syncthing.enable && !lingers)
          "${staysNot} Write in the NixOS configuration users.users.${user}.linger = true;";
    })
  ];
}
