# The Nix of the machine: features that the server needs, garbage, remote builders, and the
# limits of a small machine.
{
  config,
  lib,
  options,
  ...
}:
let
  inherit (lib) mkDefault mkOption types;
  cfg = config.services.build-server;
in
{
  options.services.build-server = {
    gc = {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = ''
          Collect garbage and optimise the store regularly. What builds are green with stays:
          the server holds the last `settings.build.keep` results of each branch and target.
        '';
      };
      dates = mkOption {
        type = types.str;
        default = "weekly";
        example = "Sun 03:15";
        description = "When, as systemd.time(7) writes it. A run that was slept through is made up for.";
      };
      olderThan = mkOption {
        type = types.strMatching "[0-9]+d" // {
          description = ''number of days, e.g. "30d"'';
        };
        default = "30d";
        description = "Generations of the system older than this are given up.";
      };
    };

    remoteBuilders = mkOption {
      inherit (options.nix.buildMachines) type;
      default = [ ];
      example = lib.literalExpression ''
        [
          {
            hostName = "big-machine";
            protocol = "ssh-ng";
            sshUser = "builder";
            sshKey = "/var/lib/build-server-keys/builder";
            systems = [ "x86_64-linux" "aarch64-linux" ];
            maxJobs = 8;
          }
        ]
      '';
      description = ''
        Other machines that Nix may build on (`nix.buildMachines`). Nix's daemon logs in
        there, as root: the key must be root's, and the host known to root.
      '';
    };

    smallMachine = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Limits for a machine with little memory, 4 to 8 GiB: one build at a time, less for
        each, and a machine that stays usable meanwhile. Each is a default.
      '';
    };
  };

  config = lib.mkIf cfg.enable (
    lib.mkMerge [
      {
        # The server calls `nix eval` on flakes.
        nix.settings.experimental-features = [
          "nix-command"
          "flakes"
        ];
      }

      (lib.mkIf cfg.gc.enable {
        nix.gc = {
          automatic = mkDefault true;
          dates = mkDefault cfg.gc.dates;
          options = mkDefault "--delete-older-than ${cfg.gc.olderThan}";
          # A machine that sleeps at that hour does it after waking.
          persistent = mkDefault true;
          randomizedDelaySec = mkDefault "10min";
        };
        nix.optimise = {
          automatic = mkDefault true;
          dates = mkDefault [ cfg.gc.dates ];
          persistent = mkDefault true;
        };
      })

      (lib.mkIf (cfg.remoteBuilders != [ ]) {
        nix.buildMachines = cfg.remoteBuilders;
        nix.distributedBuilds = mkDefault true;
        # They fetch what is in a cache by themselves.
        nix.settings.builders-use-substitutes = mkDefault true;
      })

      (lib.mkIf cfg.smallMachine {
        services.build-server.settings = {
          build = {
            parallel = mkDefault 1;
            eval_memory = mkDefault "2GiB";
            command_memory = mkDefault "2GiB";
            processes = mkDefault 1024;
          };
          retention.logs_size = mkDefault "2GiB";
        };
        nix.settings = {
          max-jobs = mkDefault 1;
          cores = mkDefault 2;
        };
        # Builds run below Nix's daemon. Above this they are slowed down and their memory is
        # reclaimed; a hard limit would kill them, and look like the commit's fault.
        systemd.services.nix-daemon.serviceConfig = {
          MemoryHigh = mkDefault "70%";
          # Against 100 of all others: answering comes before building.
          CPUWeight = mkDefault 50;
          IOWeight = mkDefault 50;
        };
        # The server and its jobs together; each job has its own, lower one.
        systemd.services.build-server.serviceConfig.MemoryMax = mkDefault "80%";
        zramSwap.enable = mkDefault (!(config.wsl.enable or false));
      })
    ]
  );
}
