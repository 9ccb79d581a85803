# What NixOS-WSL needs to be a server: names that resolve, a clock that is right after
# Windows slept, tailscaled inside the distribution. What has to be done on the Windows side
# is in nix/hosts/build-server/README.md.
{
  config,
  lib,
  options,
  pkgs,
  ...
}:
let
  inherit (lib) mkDefault mkOption types;
  cfg = config.services.wsl-host;
  isWsl = config.wsl.enable or false;

  setClock = pkgs.writeShellApplication {
    name = "wsl-clock";
    runtimeInputs = [
      pkgs.coreutils
      pkgs.util-linux
    ];
    text = builtins.readFile ./wsl-clock.sh;
  };
  wslconfig = ''
    # %UserProfile%\.wslconfig of the Windows user who owns the distribution.
    # Then, in PowerShell: wsl --shutdown

    [general]
    # Do not end a distribution whose last window was closed (newer WSL only; older ones
    # ignore it, and need the task that holds a process: see the README of the host).
    instanceIdleTimeout=-1

    [wsl2]
    # Do not end the virtual machine either.
    vmIdleTimeout=-1
    # Half of Windows' memory is the default; what builds do not use stays with Windows.
    memory=${cfg.memory}
  '';
in
{
  options.services.wsl-host = {
    clock = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Set the clock from the virtual machine's hardware clock when the two differ by more
        than two seconds, every minute: after Windows slept the clock is late, and TLS and
        GitHub refuse. NixOS-WSL has timesyncd switched off.
      '';
    };

    nameservers = mkOption {
      type = types.listOf types.str;
      default = [
        "1.1.1.1"
        "9.9.9.9"
      ];
      description = ''
        DNS servers for what the tailnet does not answer. The file that WSL generates and
        Tailscale's names (MagicDNS) fight over /etc/resolv.conf; here systemd-resolved has it.
      '';
    };

    memory = mkOption {
      type = types.strMatching "[0-9]+[MG]B" // {
        description = ''amount of memory as WSL writes it, e.g. "8GB"'';
      };
      default = "8GB";
      description = "Memory of the virtual machine, for /etc/build-server/wslconfig.example.";
    };
  };

  config = lib.mkMerge [
    {
      assertions = [
        {
          assertion = options ? wsl;
          message = "wsl-host is for NixOS-WSL, whose module is not here. Add nixos-wsl.nixosModules.default to the machine's modules, or take wsl-host out.";
        }
      ];
    }

    (lib.optionalAttrs (options ? wsl) {
      wsl = lib.mkIf isWsl {
        # A server's PATH is its own; programs of Windows would be found in it otherwise.
        interop.includePath = mkDefault false;
        wslConf.interop.appendWindowsPath = mkDefault false;
        wslConf.network.generateResolvConf = mkDefault false;
      };
    })

    (lib.mkIf isWsl {
      services.resolved.enable = mkDefault true;
      networking.nameservers = mkDefault cfg.nameservers;

      # On the Windows side it reaches nothing inside WSL2 (Funnel answers 502).
      services.tailscale.enable = mkDefault true;
      # Nobody is there to wait for, and no disk of WSL's is missing at a start.
      systemd.enableEmergencyMode = mkDefault false;

      systemd.services.wsl-clock = lib.mkIf cfg.clock {
        description = "Set the clock after Windows slept";
        serviceConfig = {
          Type = "oneshot";
          ExecStart = lib.getExe setClock;
        };
      };
      systemd.timers.wsl-clock = lib.mkIf cfg.clock {
        description = "Look at the clock every minute";
        wantedBy = [ "timers.target" ];
        timerConfig = {
          OnBootSec = "10s";
          # By the monotonic clock, which no wrong clock disturbs.
          OnUnitInactiveSec = "1min";
          AccuracySec = "10s";
        };
      };

      environment.etc."build-server/wslconfig.example".text = wslconfig;

      assertions = [
        {
          assertion =
            !(config.services.resolved.enable && (config.wsl.wslConf.network.generateResolvConf or false));
          message = "Both WSL and systemd-resolved would write /etc/resolv.conf. Write wsl.wslConf.network.generateResolvConf = false; or services.resolved.enable = false;";
        }
      ];
      warnings =
        lib.optional (!config.services.tailscale.enable)
          "wsl-host: services.tailscale.enable is false. Tailscale on the Windows side does not reach what runs inside WSL2 (Funnel answers 502): let tailscaled run here."
        ++
          lib.optional (config.services.tailscale.enable && config.services.tailscale.authKeyFile == null)
            "wsl-host: services.tailscale.authKeyFile is not set. Run `tailscale up` once in the distribution, or name the file of a key.";
    })
  ];
}
