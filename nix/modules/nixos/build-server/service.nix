# The service: user, unit, limits, and what is taken away from it.
{
  config,
  lib,
  ...
}:
let
  cfg = config.services.build-server;
  inherit (cfg) secrets settings user;
  stateDir = if settings.state_dir == null then "/var/lib/build-server" else settings.state_dir;
  # systemd takes % for the start of a specifier.
  credential = name: file: "${name}:${lib.replaceStrings [ "%" ] [ "%%" ] file}";
  credentials = lib.mapAttrsToList credential (
    lib.filterAttrs (_: file: file != null) {
      webhook-secret = secrets.webhookSecretFile;
      webhook-secret-2 = secrets.webhookSecretOldFile;
      github-token = secrets.githubTokenFile;
      github-app-key = secrets.githubAppKeyFile;
      api-token = secrets.apiTokenFile;
      notify-urls = secrets.notifyUrlsFile;
    }
  );
in
{
  config = lib.mkIf cfg.enable {
    users.users.${user} = {
      isSystemUser = true;
      group = user;
      home = stateDir;
      description = "build-server";
    };
    users.groups.${user} = { };

    # `build-server doctor`, `backup` and the others, for the people of this machine.
    environment.systemPackages = [ cfg.package ];

    systemd.services.build-server = {
      description = "build-server: builds what is pushed";
      documentation = [ "https://github.com/Bullish-Design/build-server" ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [
        "network-online.target"
        "nix-daemon.socket"
      ];
      # The system's Nix, which fits its daemon, comes before the one that the package has.
      path = [ config.nix.package ] ++ cfg.path;
      # A new version takes over the open sockets; a stop and a start would leave a gap.
      stopIfChanged = false;
      # It must run, and not only when somebody knocks: it looks for commits by itself.
      notSocketActivated = true;
      unitConfig = {
        # Never given up: disks fill and networks fail, and both come back. The pause
        # between two tries grows to five minutes (below).
        StartLimitIntervalSec = 0;
        RequiresMountsFor = stateDir;
      };

      serviceConfig = {
        # SIGHUP reads the secrets again, and says when it is done.
        Type = "notify-reload";
        NotifyAccess = "main";
        ExecStart = "${lib.getExe' cfg.package "build-server"} serve --config ${cfg.configFile}";

        User = user;
        Group = user;
        StateDirectory = lib.removePrefix "/var/lib/" stateDir;
        # The group may look at logs; nobody else.
        StateDirectoryMode = "0750";
        UMask = "0027";
        # For sockets of its own; those of systemd are not its to remove.
        RuntimeDirectory = lib.mkIf (!cfg.socketActivation) "build-server";
        LoadCredential = credentials;
        # A reload hands over the files as they are now: systemd 260 and newer. An older one
        # says that it does not know this, and goes on.
        RefreshOnReload = "credentials";

        # The event loop reports every few seconds; a server that stands still is killed.
        WatchdogSec = 60;
        # An upgrade copies the history first, and a large one takes its time.
        TimeoutStartSec = "10min";
        Restart = "on-failure";
        RestartSec = 1;
        RestartSteps = 8;
        RestartMaxDelaySec = "5min";
        # 2: the configuration is wrong. 3: the history is damaged, or from a newer version.
        # To start again changes neither, and might make a damaged history worse.
        RestartPreventExitStatus = "2 3";
        # The server ends its builds itself (ten seconds); what is left is killed with it.
        KillMode = "mixed";
        TimeoutStopSec = 60;

        # A cgroup for each evaluation and command, with limits of its own.
        Delegate = "memory pids";
        # One build that ran out of memory is that build's end, not the server's.
        OOMPolicy = "continue";
        # Each listener of a log, each connection and each build has descriptors open.
        LimitNOFILE = 65536;
        # A core file would hold the secrets.
        LimitCORE = 0;

        # What follows takes away what neither the server nor bubblewrap needs, which it runs
        # evaluations and commands under. Left out, because bubblewrap does not work with
        # them: RestrictNamespaces (it is made of namespaces), ProtectKernelTunables,
        # ProtectKernelLogs, ProtectProc and ProcSubset (parts of /proc that are covered
        # forbid a new /proc), ProtectHostname (a sandbox has a host name of its own).
        # And ProtectControlGroups (the cgroups above), MemoryDenyWriteExecute (commands may
        # run programs that compile while they run), PrivateUsers (the daemon and the cgroups
        # know users by their real numbers), PrivateNetwork.

        # Nothing can be gained by a setuid program.
        NoNewPrivileges = true;
        # An ordinary user; in the namespaces of a sandbox bubblewrap has its own.
        CapabilityBoundingSet = "";
        AmbientCapabilities = "";
        # All it writes is its state directory; Nix writes the store for it.
        ProtectSystem = "strict";
        # Nobody's files are its business.
        ProtectHome = true;
        # What other services leave in /tmp is not for it, nor the other way round.
        PrivateTmp = true;
        # /dev/null and its like are enough, also below bubblewrap.
        PrivateDevices = true;
        # Setting the clock, and loading modules: nothing here does.
        ProtectClock = true;
        ProtectKernelModules = true;
        # No shared memory or semaphores with other services, and none left behind.
        PrivateIPC = true;
        RemoveIPC = true;
        # IPv4 and IPv6, also for what sends messages (Apprise, a process of its own); the
        # daemon's socket; netlink is how bubblewrap makes a loopback device.
        RestrictAddressFamilies = [
          "AF_UNIX"
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
        ];
        # A command cannot take the processor from all others.
        RestrictRealtime = true;
        # No setuid or setgid files in a checkout that outlives its build.
        RestrictSUIDSGID = true;
        # Another personality of the kernel brings back old holes.
        LockPersonality = true;
        # System calls of another architecture go round the filter below.
        SystemCallArchitectures = "native";
        # A list of what is forbidden: bubblewrap mounts and unshares, and commands may be
        # any program. These are for administrators of a machine, or long obsolete.
        SystemCallFilter = [
          "~@clock"
          "~@cpu-emulation"
          "~@module"
          "~@obsolete"
          "~@raw-io"
          "~@reboot"
          "~@swap"
        ];
        # Forbidden calls fail, as they would for any user; they do not kill.
        SystemCallErrorNumber = "EPERM";
      };
    };
  };
}
